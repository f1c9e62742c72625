"""`python -m igw_operator NAME`: the `igw` command where no script is installed."""

from igw_operator.commands import main

if __name__ == "__main__":
    main()
