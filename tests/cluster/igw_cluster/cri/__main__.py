"""`python -m igw_cluster.cri`."""

from igw_cluster.cri.cli import main

main()
