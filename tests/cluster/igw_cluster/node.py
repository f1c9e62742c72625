"""The commands and configuration files of everything beside the API server: controllers, scheduler, and the one node.

Pure but for the files that are written. Addresses are those of the private machine, in which every port is free, so
ports are Kubernetes' usual ones. Called by `cluster`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from igw_cluster.private import DNS_IP, NODE_IP, PODS

# Its user in `credentials` is `system:node:local`.
NODE_NAME: Final = "local"
KUBELET_HEALTH: Final = 10248
PROXY_HEALTH: Final = 10256
DNS_READY: Final = 8181
Command = list[str | Path]

_COREFILE: Final = """\
.:53 {{
    bind {node}
    errors
    ready 127.0.0.1:{ready}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    cache 5
}}
"""
# Selects nothing: CoreDNS is a process of the node, and its endpoint is written by hand.
_DNS_SERVICE: Final = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "kube-dns", "namespace": "kube-system"},
    "spec": {
        "clusterIP": DNS_IP,
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    },
}
_DNS_ENDPOINT: Final = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "kube-dns",
        "namespace": "kube-system",
        "labels": {"kubernetes.io/service-name": "kube-dns"},
    },
    "addressType": "IPv4",
    "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
    "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
}
# What CoreDNS reads, for a ServiceAccount whose token it uses as a process of the node.
_DNS_ACCESS: Final[tuple[Mapping[str, Any], ...]] = (
    {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "coredns", "namespace": "kube-system"},
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    },
)


def dns_objects() -> str:
    """The Service of the cluster's names, its endpoint and its access, as a JSON stream for `kubectl apply`."""
    return "\n".join(json.dumps(item) for item in (*_DNS_ACCESS, _DNS_SERVICE, _DNS_ENDPOINT))


def node_object() -> str:
    """The node as JSON, for a cluster whose Pods nobody runs: kube-proxy needs to know its address."""
    status = {"addresses": [{"type": "InternalIP", "address": NODE_IP}]}
    return json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME}, "status": status})


def controller_manager(program: Path, kubeconfig: Path, authority: Path, accounts_key: Path) -> Command:
    """All controllers, each with its own ServiceAccount, as in a real cluster. They react to a lost Pod in seconds."""
    return [
        *(program, f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--use-service-account-credentials"),
        *(f"--root-ca-file={authority}", f"--service-account-private-key-file={accounts_key}"),
        *("--bind-address=127.0.0.1", "--concurrent-gc-syncs=5"),
    ]


def scheduler(program: Path, kubeconfig: Path) -> Command:
    """The default profile."""
    return [program, f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]


def kubelet(program: Path, kubeconfig: Path, folder: Path, runtime: Path) -> Command:
    """The node's agent; `runtime` is the socket of the CRI runtime. Whoever is inside the machine may call it."""
    folder.mkdir(parents=True, exist_ok=True)
    no_names = folder / "resolv.conf"
    no_names.write_text("")
    config = _write(
        folder / "kubelet.json",
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{runtime}",
            # What machines without a container engine have: cgroup v1, maybe swap, no cgroups of our own.
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
            "evictionHard": {},
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": False,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "readOnlyPort": 0,
            "healthzPort": KUBELET_HEALTH,
            "clusterDNS": [DNS_IP],
            "clusterDomain": "cluster.local",
            "resolvConf": str(no_names),
            "podLogsDir": str(folder / "pod-logs"),
            "maxPods": 500,
            # Tests wait for what the node says.
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
            "registerNode": True,
        },
    )
    return [
        *(program, f"--config={config}", f"--kubeconfig={kubeconfig}", f"--hostname-override={NODE_NAME}"),
        *(f"--root-dir={folder}", f"--node-ip={NODE_IP}", f"--cert-dir={folder / 'pki'}"),
    ]


def proxy(program: Path, kubeconfig: Path, folder: Path) -> Command:
    """Services by nftables. Leaves the kernel's connection tracking limits alone: they are the outer machine's."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _write(
        folder / "kube-proxy.json",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "clusterCIDR": PODS,
            "hostnameOverride": NODE_NAME,
            "healthzBindAddress": f"127.0.0.1:{PROXY_HEALTH}",
            "metricsBindAddress": "127.0.0.1:10249",
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "nftables": {"syncPeriod": "30s", "minSyncPeriod": "100ms"},
        },
    )
    return [program, f"--config={config}"]


def dns(program: Path, kubeconfig: Path, folder: Path) -> Command:
    """Names of the cluster and no others: nothing asks outside."""
    folder.mkdir(parents=True, exist_ok=True)
    corefile = folder / "Corefile"
    corefile.write_text(_COREFILE.format(node=NODE_IP, ready=DNS_READY, kubeconfig=kubeconfig))
    return [program, "-conf", corefile]


def _write(place: Path, config: Mapping[str, Any]) -> Path:
    place.write_text(json.dumps(config, indent=1) + "\n")
    return place
