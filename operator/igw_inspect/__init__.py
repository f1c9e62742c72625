"""What people ask a gateway that runs: `igw explain` and `igw top`. Speaks HTTP to pickers, and imports no plane."""
