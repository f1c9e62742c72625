"""The plan as Kubernetes objects for Envoy Gateway and for the pickers. Pure: plain dicts, no API server.

`render` (module `objects`) is the entry; `values` has its inputs and its output. `picker`, `listener` and `pool` make
the objects of one site or one pool, `names` their names.
"""
