"""`python -m igw_extproc`."""

from igw_extproc.cli import main

main()
