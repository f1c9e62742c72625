"""Manifests for the operator's tests: a gateway with two listeners, pools that ask for a port, models, policies."""

from typing import Any, Final

import yaml

from igw_api.wire import ATTACH_TO_ANNOTATION

GATEWAY: Final = "gw"
CONTROLLER: Final = "gateway.envoyproxy.io/gatewayclass-controller"
# The manifests that the first users brought.
GIVEN: Final = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: InferencePool
metadata:
  annotations:
    inference.networking.x-k8s.io/attach-to: |
      name: gw
      port: 8081
  name: vllm-llama2-7b-pool
spec:
  targetPortNumber: 8000
  selector:
    app: vllm-llama2-7b-pool
  extensionRef:
    name: inference-gateway-ext-proc
---
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: InferenceModel
metadata:
  name: inferencemodel-sample
spec:
  modelName: /model/llama2
  criticality: Critical
  poolRef:
    group: inference.networking.x-k8s.io
    kind: InferencePool
    name: vllm-llama2-7b-pool
  targetModels:
    - name: /model/llama2
      weight: 100
"""


def gateway(
    name: str = GATEWAY, ports: tuple[int, ...] = (8080, 8081), controller: str = CONTROLLER, **spec: Any
) -> str:
    """A GatewayClass and a Gateway of it, with a listener `p<port>` per port that lets all namespaces in."""
    class_name = "igw-test" if controller == CONTROLLER else "other"
    listeners = [
        {"name": f"p{port}", "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
        for port in ports
    ]
    return "---\n".join(
        (
            _text("gateway.networking.k8s.io/v1", "GatewayClass", class_name, {"controllerName": controller}),
            _text(
                "gateway.networking.k8s.io/v1",
                "Gateway",
                name,
                {"gatewayClassName": class_name, "listeners": listeners, **spec},
            ),
        )
    )


def impatient_gateway(*ports: int) -> str:
    """A Gateway whose Envoy lets the connections of a listener that was changed live for a second only.

    A stream of several seconds is cut then, as it would be after a minute elsewhere.
    """
    return draining_gateway(*ports, drainTimeout="1s")


def draining_gateway(*ports: int, **shutdown: str) -> str:
    """A Gateway whose Envoy drains like this when it is to end, or when a listener was changed."""
    proxy = _text("gateway.envoyproxy.io/v1alpha1", "EnvoyProxy", "draining", {"shutdown": shutdown})
    reference = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "draining"}
    return f"{proxy}---\n{gateway(ports=ports, infrastructure={'parametersRef': reference})}"


def pool(
    name: str = "llm",
    port: int | None = 8081,
    *,
    to: str = GATEWAY,
    namespace: str = "",
    picker: str = "picker",
    **spec: Any,
) -> str:
    """A v1 InferencePool, exposed on `port` of Gateway `to`, which is in the pool's namespace unless one is given."""
    note = {} if port is None else {ATTACH_TO_ANNOTATION: attach_to(port, to, namespace)}
    return _text(
        "inference.networking.k8s.io/v1",
        "InferencePool",
        name,
        {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": picker, "port": {"number": 9002}, "failureMode": "FailOpen"},
            **spec,
        },
        note,
    )


def attach_to(port: int, to: str = GATEWAY, namespace: str = "") -> str:
    """The annotation's text."""
    return f"name: {to}\nport: {port}\n" + (f"namespace: {namespace}\n" if namespace else "")


def alpha_pool(version: str, name: str, port: int, *, app: str, to: str = GATEWAY) -> str:
    """An InferencePool of `v1alpha1` or `v1alpha2` over the members with the label `app`."""
    spec = {"selector": {"app": app}, "targetPortNumber": 8000, "extensionRef": {"name": f"{name}-picker"}}
    note = {ATTACH_TO_ANNOTATION: attach_to(port, to)}
    return _text(f"inference.networking.x-k8s.io/{version}", "InferencePool", name, spec, note)


def model(name: str, of: str = "llm", group: str = "inference.networking.k8s.io", **spec: Any) -> str:
    """An InferenceModel `name` (also the name that clients ask for) of a pool, a v1 one unless told otherwise."""
    reference = {"group": group, "name": of}
    kind = ("inference.networking.x-k8s.io/v1alpha2", "InferenceModel")
    return _text(*kind, name, {"modelName": name, "poolRef": reference, **spec})


def policy(name: str, of: str, scheduling: str) -> str:
    """An InferencePoolPolicy that places the requests of a v1 pool."""
    spec = {"targetRefs": [{"name": of}], "scheduling": {"policy": scheduling}}
    return _text("inferencegateway.io/v1alpha1", "InferencePoolPolicy", name, spec)


def _text(version: str, kind: str, name: str, spec: Any, annotations: dict[str, str] | None = None) -> str:
    metadata = {"name": name, **({"annotations": annotations} if annotations else {})}
    return yaml.safe_dump({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
