"""The shapes that our Kubernetes objects share. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from igw_api import wire
from igw_api.meta import GATEWAY_GROUP
from igw_api.objects import Key
from igw_operator.render.envoy_gateway.values import Manifest

RBAC: Final = "rbac.authorization.k8s.io"
ENVOY_GROUP: Final = "gateway.envoyproxy.io"
SLICE_MAKER_LABEL: Final = "endpointslice.kubernetes.io/managed-by"  # by which its makers tell slices apart
_ENVOY: Final = f"{ENVOY_GROUP}/v1alpha1"
# Every kind that we create, and its version.
API_VERSIONS: Final[Mapping[str, str]] = {
    "ConfigMap": "v1",
    "ServiceAccount": "v1",
    "Service": "v1",
    "Role": f"{RBAC}/v1",
    "RoleBinding": f"{RBAC}/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Deployment": "apps/v1",
    "BackendTrafficPolicy": _ENVOY,
    "HTTPRouteFilter": _ENVOY,
    "ClientTrafficPolicy": _ENVOY,
    "EnvoyExtensionPolicy": _ENVOY,
    "EnvoyPatchPolicy": _ENVOY,
    "Backend": _ENVOY,
    "SecurityPolicy": _ENVOY,
    "HTTPRoute": f"{GATEWAY_GROUP}/v1",
}


def manifest(kind: str, key: Key, labels: Mapping[str, str], **rest: Any) -> Manifest:
    """An object of one of our kinds."""
    metadata = {"name": key.name, "namespace": key.namespace, "labels": dict(labels)}
    return {"apiVersion": API_VERSIONS[kind], "kind": kind, "metadata": metadata, **rest}


def endpoint_slice(service: Key, labels: Mapping[str, str], address: str | None, name: str, port: int) -> Manifest:
    """The one endpoint behind a Service without a selector. Address None: not known yet."""
    return manifest(
        "EndpointSlice",
        service,
        {
            **labels,
            "kubernetes.io/service-name": service.name,
            SLICE_MAKER_LABEL: wire.MANAGED_BY,
        },
        addressType="IPv6" if ":" in (address or "") else "IPv4",
        endpoints=[{"addresses": [address], "conditions": {"ready": True}}] if address else [],
        ports=[{"name": name, "port": port, "protocol": "TCP"}],
    )


def duration(seconds: float) -> str:
    """Seconds as the Gateway API writes durations: whole seconds, else milliseconds."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
