"""`make chaos`: every part of a running gateway is killed, frozen, slowed and corrupted in turn, under steady load.

`faults` draws what is broken, `blame` says whose fault a failed request is, `figures` adds up: these are pure. `load`
asks, `scenario` breaks and mends, `memory` watches; `standalone` is the gateway on one machine. The one on Kubernetes
is `igw_testing.chaos` of the tests, since it needs their cluster.
"""
