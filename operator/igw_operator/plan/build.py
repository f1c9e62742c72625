"""Objects to plan: the whole of what a gateway shall do, and what became of each object. Pure.

Called by `standalone` (manifest files) and, on Kubernetes, by the reconciler. The result does not depend on the order
of the objects.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from igw_api.objects import (
    AttachTo,
    BackendKind,
    BackendRef,
    Gateway,
    Key,
    Listener,
    Pool,
    Route,
    RouteParent,
    RouteRule,
)
from igw_api.objectset import ObjectSet
from igw_api.resolution import age
from igw_operator.plan.attach import Refused, Seat, find_seats
from igw_operator.plan.backends import Catalog, pool_cluster
from igw_operator.plan.model import (
    Cluster,
    Condition,
    Destination,
    GatewayPlan,
    Placement,
    PlannedListener,
    PlannedRoute,
    Refusal,
)
from igw_operator.plan.routing import Attached, hosts

Place = tuple[Key, str]  # a Gateway and one of its listeners, by name


@dataclass(slots=True)
class _Draft:
    """What has been decided so far."""

    catalog: Catalog
    gateways: Mapping[Key, Gateway]
    first_byte: bool
    attached: dict[Place, list[Attached]] = field(default_factory=lambda: defaultdict(list))
    clusters: dict[str, Cluster] = field(default_factory=dict)
    conditions: dict[Condition, None] = field(default_factory=dict)  # each once, in order
    led_to: set[Key] = field(default_factory=set)  # pools that some route leads to

    def say(self, whose: Pool | Route, type_: str, reason: str, message: str, *, status: bool = False) -> None:
        kind = "InferencePool" if isinstance(whose, Pool) else "HTTPRoute"
        self.conditions[Condition(kind, whose.key, type_, status, reason, message)] = None


def build_plan(objects: ObjectSet, *, first_byte: bool = True) -> tuple[GatewayPlan, tuple[Condition, ...]]:
    """The plan and the conditions. Nothing here raises: what cannot be honoured is a condition."""
    draft = _Draft(
        catalog=Catalog(objects.pools, objects.services, tuple(objects.members.values())),
        gateways=objects.gateways,
        first_byte=first_byte,
    )
    pools = sorted(objects.pools.values(), key=age)
    _attach_pools(draft, pools)
    for route in sorted(objects.routes.values(), key=age):
        _attach_route(draft, route)
    _check_pools(draft, pools)
    clusters = tuple(draft.clusters[name] for name in sorted(draft.clusters))
    plan = GatewayPlan(listeners=tuple(_listeners(draft)), clusters=clusters)
    return plan, tuple(sorted(draft.conditions, key=lambda condition: (condition.kind, condition.key, condition.type)))


def _attach_pools(draft: _Draft, pools: Iterable[Pool]) -> None:
    """Exposure by annotation: a route for every request of that port. The oldest pool has it."""
    holders: dict[AttachTo, Key] = {}
    for pool in pools:
        wanted = pool.attach_to
        if wanted is None:
            continue
        seats = find_seats(draft.gateways, pool.key, RouteParent(wanted.gateway, port=wanted.port))
        if isinstance(seats, Refused):
            draft.say(pool, "Accepted", seats.reason, seats.message)
        elif (holder := holders.setdefault(wanted, pool.key)) != pool.key:
            taken = f"port {wanted.port} of Gateway {wanted.gateway} leads to InferencePool {holder} already"
            draft.say(pool, "Accepted", "Conflicted", f"{taken}; attach this one to another port")
        else:
            rule = RouteRule(backends=(BackendRef(BackendKind.POOL, pool.key),))
            _seat(draft, pool, (rule,), seats, names_listener=True)


def _attach_route(draft: _Draft, route: Route) -> None:
    for parent in route.parents:
        seats = find_seats(draft.gateways, route.key, parent, route.hostnames)
        if isinstance(seats, Refused):
            draft.say(route, "Accepted", seats.reason, seats.message)
        else:
            names_listener = parent.section is not None or parent.port is not None
            _seat(draft, route, route.rules, seats, names_listener=names_listener)


def _seat(
    draft: _Draft, owner: Pool | Route, rules: Iterable[RouteRule], seats: Iterable[Seat], *, names_listener: bool
) -> None:
    draft.say(owner, "Accepted", "Accepted", "attached", status=True)
    planned = [route for rule in rules for route in _planned(draft, owner, rule)]
    for seat in seats:
        draft.attached[seat.gateway, seat.listener.name] += [
            Attached(route, seat.hostnames, names_listener, owner.created, index) for index, route in enumerate(planned)
        ]


def _planned(draft: _Draft, owner: Pool | Route, rule: RouteRule) -> Iterator[PlannedRoute]:
    destinations = tuple(_destinations(draft, owner, rule))
    for match in rule.matches:
        yield PlannedRoute(
            owner=owner.key,
            match=match,
            destinations=destinations,
            request_timeout=rule.request_timeout or None,
            try_timeout=rule.backend_timeout or None,
        )


def _destinations(draft: _Draft, owner: Pool | Route, rule: RouteRule) -> Iterator[Destination]:
    weighted = [ref for ref in rule.backends if ref.weight > 0]
    if not weighted:
        yield Destination(Refusal(500, "no_backend", "The route leads to no backend."))
    for ref in weighted:
        cluster = draft.catalog.cluster(ref)
        if isinstance(cluster, str):
            draft.say(owner, "ResolvedRefs", "BackendNotFound", f"{cluster}; its requests are answered 503")
            yield Destination(
                Refusal(503, "backend_not_found", f"The route's backend is missing: {cluster}."), ref.weight
            )
            continue
        draft.clusters[cluster.name] = cluster
        draft.led_to.add(ref.key)
        if not cluster.endpoints and ref.key not in draft.catalog.pools:
            message = f"no ready endpoint stands behind {ref.kind} {ref.key}"
            draft.say(owner, "BackendsAvailable", "EndpointsNotFound", message)
        yield Destination(cluster.name, ref.weight, _placement(draft, ref))


def _placement(draft: _Draft, ref: BackendRef) -> Placement | None:
    if ref.kind is not BackendKind.POOL:
        return None
    return Placement(ref.key, draft.catalog.pools[ref.key].failure_mode, draft.first_byte)


def _check_pools(draft: _Draft, pools: Iterable[Pool]) -> None:
    for pool in pools:
        if not pool_cluster(pool, draft.catalog.members).endpoints:
            labels = ",".join(f"{name}={value}" for name, value in sorted(pool.selector.items()))
            draft.say(pool, "BackendsAvailable", "EndpointsNotFound", f"no ready endpoint has the labels {labels}")
        if pool.key not in draft.led_to and pool.attach_to is None:
            message = "no route leads to it: annotate it with attach-to, or name it in an HTTPRoute"
            draft.say(pool, "Exposed", "NotExposed", message)


def _listeners(draft: _Draft) -> Iterator[PlannedListener]:
    for gateway in sorted(draft.gateways.values(), key=lambda gateway: gateway.key):
        by_port: dict[int, list[Listener]] = defaultdict(list)
        for listener in gateway.listeners:
            by_port[listener.port].append(listener)
        for port, sharing in sorted(by_port.items()):
            entries = [host for one in sharing for host in hosts(draft.attached[gateway.key, one.name])]
            yield PlannedListener(
                gateway=gateway.key,
                names=tuple(listener.name for listener in sharing),
                port=port,
                hosts=tuple(sorted({host.hostname: host for host in entries}.values(), key=lambda host: host.hostname)),
            )
