"""`make bench-cluster`: what the product takes on a real cluster. Run as `python -m igw_testing.bench_cluster`.

`__main__` has the order of the parts, and each part a module. The report is docs/benchmarks/cluster.md.
"""
