"""`python -m igw_cluster`."""

import sys

from igw_cluster.cli import main

if __name__ == "__main__":
    sys.exit(main())
