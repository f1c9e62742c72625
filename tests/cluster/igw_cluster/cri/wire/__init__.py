"""The messages of the container runtime interface that the runtime uses; compiled from the .proto files beside this.

Compile anew with `python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. igw_cluster/cri/wire/*.proto`, run in
tests/cluster.
"""
