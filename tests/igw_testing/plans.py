"""Manifest texts to a plan, for tests of the plan and of what is rendered from it."""

from collections.abc import Iterable
from typing import Any

import yaml

from igw_api.manifests import collect, parse
from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import Condition, GatewayPlan, PlannedListener, PlannedRoute
from igw_operator.render.envoy_gateway.names import names_of
from igw_operator.render.envoy_gateway.objects import render
from igw_operator.render.envoy_gateway.values import Observed, Options, Rendered
from igw_operator.render.files import Address, Surroundings

PICKER = Options(image="registry.example/igw:test")
GATEWAY_KEY = Key("default", "gw")


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


def objects_of(*texts: str) -> ObjectSet:
    """The objects of these manifests, which must be free of problems."""
    objects, problems = collect({f"{index}.yaml": parse(text, f"{index}.yaml") for index, text in enumerate(texts)})
    assert not problems, "\n".join(map(str, problems))
    return objects


def planned(*texts: str) -> tuple[GatewayPlan, tuple[Condition, ...]]:
    """The plan of these manifests."""
    return build_plan(objects_of(*texts))


def rendered(
    objects: ObjectSet, plan: GatewayPlan, observed: Observed | None = None, options: Options = PICKER
) -> tuple[Rendered, ...]:
    """The objects for Envoy Gateway, by default as when every Service has its address."""
    names = names_of(plan.sites)
    addresses = {names.site(site): f"10.96.0.{number}" for number, site in enumerate(plan.sites, 1)}
    return render(plan, objects, observed or Observed(cluster_ips=addresses), options)


def plan_of(*texts: str) -> GatewayPlan:
    """The plan alone."""
    return planned(*texts)[0]


def said(*texts: str) -> set[tuple[str, str, str]]:
    """What is wrong: (name, condition type, reason)."""
    return {(one.key.name, one.type, one.reason) for one in planned(*texts)[1] if not one.status}


def listener(plan: GatewayPlan, port: int) -> PlannedListener:
    """The listener on that port."""
    return next(one for one in plan.listeners if one.port == port)


def routes(plan: GatewayPlan, port: int, hostname: str = "*") -> tuple[PlannedRoute, ...]:
    """The routes of one host on one port."""
    return next((host.routes for host in listener(plan, port).hosts if host.hostname == hostname), ())


def surroundings(plan: GatewayPlan, directory: str = "/state") -> Surroundings:
    """Addresses for a plan that is rendered only."""
    binds = {(one.gateway, one.port): Address("127.0.0.1", one.port) for one in plan.listeners}
    return Surroundings(directory, Address("127.0.0.1", 9901), Address("127.0.0.1", 9002), binds)


def names(items: Iterable[PlannedRoute]) -> list[str]:
    """Who asked for each route."""
    return [item.owner.name for item in items]
