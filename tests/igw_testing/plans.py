"""Manifest texts to a plan, for tests of the plan and of what is rendered from it."""

from collections.abc import Iterable

from igw_api.manifests import collect, parse
from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import Condition, GatewayPlan, PlannedListener, PlannedRoute
from igw_operator.render.envoy_gateway.names import names_of
from igw_operator.render.envoy_gateway.objects import render
from igw_operator.render.envoy_gateway.values import Observed, Options, Rendered
from igw_operator.render.files import Address, Surroundings
from igw_testing.gateway_texts import endpoints, engine, gateway, http_route, model, pool, service

__all__ = [
    "endpoints",
    "engine",
    "gateway",
    "http_route",
    "listener",
    "model",
    "names",
    "objects_of",
    "plan_of",
    "planned",
    "pool",
    "rendered",
    "routes",
    "said",
    "service",
    "surroundings",
]

PICKER = Options(image="registry.example/igw:test", providers=True)
GATEWAY_KEY = Key("default", "gw")


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
