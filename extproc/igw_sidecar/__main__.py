"""`python -m igw_sidecar`."""

from igw_sidecar.cli import main

main()
