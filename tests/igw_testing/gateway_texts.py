"""Short ways to write the manifests of a gateway and its pools. Needs no renderer, so any test may import it."""

from typing import Any

import yaml


def gateway(*ports: int, name: str = "gw", **listener: Any) -> str:
    """A Gateway with a listener `p<port>` on each port; `listener` has further fields of each."""
    listeners = [{"name": f"p{port}", "port": port, "protocol": "HTTP", **listener} for port in ports]
    return _text("gateway.networking.k8s.io/v1", "Gateway", name, {"gatewayClassName": "igw", "listeners": listeners})


def pool(
    name: str = "llm", port: int | None = None, *, to: str = "gw", fail_close: bool = False, **metadata: Any
) -> str:
    """An InferencePool of members with the label `app: <name>`, exposed on `port` of Gateway `to` where given."""
    if port is not None:
        note = f"name: {to}\nport: {port}\nnamespace: default"
        metadata["annotations"] = {"inference.networking.x-k8s.io/attach-to": note}
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]}
    if fail_close:
        spec["endpointPickerRef"] = {"name": "picker", "port": {"number": 9002}, "failureMode": "FailClose"}
    return _text("inference.networking.k8s.io/v1", "InferencePool", name, spec, **metadata)


def endpoints(*hosts: str, app: str = "llm", name: str = "engines", **metadata: Any) -> str:
    """An EndpointList of these IP addresses, labelled `app`."""
    spec = {"labels": {"app": app}, "endpoints": [{"address": host} for host in hosts]}
    return _text("inferencegateway.io/v1alpha1", "EndpointList", name, spec, **metadata)


def division(*pools: str, policy: str = "pd-split", **prefill_decode: Any) -> str:
    """An InferencePoolPolicy that divides these pools' requests, or with another `policy` does not."""
    scheduling = {"policy": policy, **({"prefillDecode": prefill_decode} if prefill_decode else {})}
    spec = {"targetRefs": [{"name": name} for name in pools or ("llm",)], "scheduling": scheduling}
    return _text("inferencegateway.io/v1alpha1", "InferencePoolPolicy", "division", spec)


def engine(app: str, address: str) -> str:
    """An EndpointList of one `ip:port`, labelled `app`."""
    host, _, port = address.rpartition(":")
    spec = {"labels": {"app": app}, "endpoints": [{"address": host, "port": int(port)}]}
    return _text("inferencegateway.io/v1alpha1", "EndpointList", f"engine-{app}", spec)


def model(name: str, of: str = "llm", served: str | None = None, **metadata: Any) -> str:
    """An InferenceModel of pool `of`, which serves its own name unless told another."""
    spec = {"modelName": served or name, "poolRef": {"name": of}}
    return _text("inference.networking.x-k8s.io/v1alpha2", "InferenceModel", name, spec, **metadata)


def service(name: str = "web", app: str = "web", port: int = 80, target: int = 8080) -> str:
    """A Service of members with the label `app`."""
    ports = [{"port": port, "targetPort": target}]
    return _text("v1", "Service", name, {"selector": {"app": app}, "ports": ports})


def http_route(
    name: str = "route",
    *,
    backends: list[dict[str, Any]] | None = None,
    rule: dict[str, Any] | None = None,
    parent: dict[str, Any] | None = None,
    hostnames: list[str] | None = None,
    **metadata: Any,
) -> str:
    """An HTTPRoute with one rule; by default every path, to Service web, on all listeners of the Gateway."""
    rules = [{"backendRefs": [{"name": "web", "port": 80}] if backends is None else backends, **(rule or {})}]
    spec: dict[str, Any] = {"parentRefs": [{"name": "gw", **(parent or {})}], "rules": rules}
    if hostnames:
        spec["hostnames"] = hostnames
    return _text("gateway.networking.k8s.io/v1", "HTTPRoute", name, spec, **metadata)


def _text(version: str, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> str:
    return yaml.safe_dump({"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec})
