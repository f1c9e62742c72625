"""The objects of one picker: what it serves, what it may see, its Deployment and its Services. Pure.

All are in the Gateway's namespace, save the permission to see the Pods of pools elsewhere.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from igw_api import wire
from igw_api.objectset import ObjectSet, dump
from igw_operator.plan.model import Site
from igw_operator.render.envoy_gateway.manifests import RBAC, endpoint_slice, manifest
from igw_operator.render.envoy_gateway.names import Names, site_labels
from igw_operator.render.envoy_gateway.values import Manifest, Observed, Options, Phase, Rendered

GRPC_PORT, METRICS_PORT = 9002, 9090
GRPC_PORT_NAME = "grpc"
UID = 65532
READ = ["get", "list", "watch"]
# Streams in flight outlive the drain of a few seconds; the rest is room for a slow node.
GRACE_SECONDS = 30
START_SECONDS = 60
# A Pod counts as available when kube-proxy everywhere has had time to learn of it.
SETTLED_SECONDS = 2


def picker_objects(
    site: Site, served: ObjectSet, names: Names, observed: Observed, options: Options
) -> Iterator[Rendered]:
    """All of them, in no order that matters: none works before all are there."""
    key, labels = names.site(site), site_labels(site, names)
    yield _base(manifest("ConfigMap", key, labels, data={wire.OBJECTS_KEY: dump(served).decode()}))
    yield _base(manifest("ServiceAccount", key, labels, automountServiceAccountToken=False))
    for one in _permissions(site, names, labels):
        yield _base(one)
    yield _base(manifest("Service", key, labels, spec=leads_to_pods(key.name, GRPC_PORT)))
    front = names.front(site)
    yield _base(manifest("Service", front, labels, spec={"clusterIP": "None", "ports": [_grpc_port(GRPC_PORT)]}))
    address = observed.cluster_ips.get(key)
    yield Rendered(
        Phase.FOUNDATION, endpoint_slice(front, labels, address, GRPC_PORT_NAME, GRPC_PORT), waits=not address
    )
    yield _base(manifest("Deployment", key, labels, spec=_deployment(site, names, options)))


def cannot_be_asked(site: Site, names: Names, observed: Observed) -> bool:
    """Whether it is too early to lead requests past this picker."""
    key = names.site(site)
    return key not in observed.cluster_ips or key in observed.awaited


def _base(body: Manifest) -> Rendered:
    return Rendered(Phase.FOUNDATION, body)


def _permissions(site: Site, names: Names, labels: Mapping[str, str]) -> Iterator[Manifest]:
    """To read the picker's own ConfigMap, and the Pods of its pools' namespaces. Nothing else."""
    key = names.site(site)
    own = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [key.name], "verbs": READ}
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": READ}
    grants = {key: own} | {
        names.pods(site, namespace): pods for namespace in sorted({pool.namespace for pool in site.pools})
    }
    for name, rule in grants.items():
        yield manifest("Role", name, labels, rules=[rule])
        yield manifest(
            "RoleBinding",
            name,
            labels,
            roleRef={"apiGroup": RBAC, "kind": "Role", "name": name.name},
            subjects=[{"kind": "ServiceAccount", "name": key.name, "namespace": key.namespace}],
        )


def leads_to_pods(picker: str, port: int) -> dict[str, Any]:
    """A Service of the picker's Pods; the other one is the Service that a pool names."""
    return {"type": "ClusterIP", "selector": {wire.PICKER_LABEL: picker}, "ports": [_grpc_port(port)]}


def _grpc_port(port: int) -> dict[str, Any]:
    return {"name": GRPC_PORT_NAME, "port": port, "targetPort": GRPC_PORT, "protocol": "TCP"}


def _deployment(site: Site, names: Names, options: Options) -> dict[str, Any]:
    key = names.site(site)
    return {
        "replicas": 1,  # two pickers would not know of each other's placements
        "selector": {"matchLabels": {wire.PICKER_LABEL: key.name}},
        "minReadySeconds": SETTLED_SECONDS,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": site_labels(site, names)},
            "spec": {
                "serviceAccountName": key.name,
                "automountServiceAccountToken": True,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": GRACE_SECONDS,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": UID,
                    "runAsGroup": UID,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [_container(f"{key}", options)],
                **(
                    {"imagePullSecrets": [dict(one) for one in options.image_pull_secrets]}
                    if options.image_pull_secrets
                    else {}
                ),
                **({"nodeSelector": dict(options.node_selector)} if options.node_selector else {}),
                **({"tolerations": [dict(one) for one in options.tolerations]} if options.tolerations else {}),
            },
        },
    }


def _health(service: str) -> dict[str, Any]:
    return {"port": GRPC_PORT, "service": service}


def _container(objects: str, options: Options) -> dict[str, Any]:
    arguments = {
        "--kubernetes": objects,
        "--host": "0.0.0.0",
        "--port": str(GRPC_PORT),
        "--metrics-port": str(METRICS_PORT),
        "--log-level": options.log_level,
    }
    return {
        "name": "picker",
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "args": ["picker", *(word for pair in arguments.items() for word in pair)],
        "ports": [
            {"name": GRPC_PORT_NAME, "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
        ],
        # A busy node may take long to start it; then the other two begin.
        "startupProbe": {"grpc": _health("liveness"), "periodSeconds": 1, "failureThreshold": START_SECONDS},
        "readinessProbe": {"grpc": _health("readiness"), "periodSeconds": 1},
        "livenessProbe": {"grpc": _health("liveness"), "periodSeconds": 5, "timeoutSeconds": 3},
        "resources": dict(options.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
