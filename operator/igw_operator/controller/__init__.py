"""The operator on Kubernetes: watches, reconciles, writes. One process, `igw operator`.

`watch` feeds `store` from the API server; `reconcile` turns the store into a plan, its rendered objects and statuses,
and `apply` and `report` write what differs. Decisions are pure (`changes`, `inventory`, `peers`); only `kube`, `watch`
and `probes` open connections.
"""
