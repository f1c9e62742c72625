"""`python -m igw_sim`: the same command line as `igw sim`."""

from igw_sim.cli import main

main()
