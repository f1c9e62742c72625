"""A real Kubernetes control plane and node on one machine, without a container engine.

`apiserver` starts etcd and kube-apiserver alone, `cluster` a whole cluster. `builds` compiles what neither PyPI nor
Debian has. Knows nothing of the product: see the README beside this package.
"""
