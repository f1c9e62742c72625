"""`make chaos`: the command, and the home on the test cluster. The rest is `igw_bench.chaos`."""
