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
from igw_operator.plan.backends import Catalog
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
from igw_operator.plan.routing import Attached, allows, hostnames_on, hosts, listeners_for

Site = tuple[Key, str]  # a Gateway and one of its listeners, by name


@dataclass(slots=True)
class _Draft:
    """What has been decided so far."""

    catalog: Catalog
    gateways: Mapping[Key, Gateway]
    first_byte: bool
    attached: dict[Site, list[Attached]] = field(default_factory=lambda: defaultdict(list))
    clusters: dict[str, Cluster] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)
    led_to: set[Key] = field(default_factory=set)  # pools that some route leads to

    def say(self, whose: Pool | Route, type_: str, reason: str, message: str, *, status: bool = False) -> None:
        kind = "InferencePool" if isinstance(whose, Pool) else "HTTPRoute"
        condition = Condition(kind, whose.key, type_, status, reason, message)
        if condition not in self.conditions:
            self.conditions.append(condition)


def build_plan(objects: ObjectSet, *, first_byte: bool = True) -> tuple[GatewayPlan, tuple[Condition, ...]]:
    """The plan and the conditions. Nothing here raises: what cannot be honoured is a condition."""
    draft = _Draft(
        catalog=Catalog(objects.pools, objects.services, tuple(objects.members.values())),
        gateways=objects.gateways,
        first_byte=first_byte,
    )
    pools = sorted(objects.pools.values(), key=_age)
    _attach_pools(draft, pools)
    for route in sorted(objects.routes.values(), key=_age):
        _attach_route(draft, route)
    _check_endpoints(draft, pools)
    plan = GatewayPlan(
        listeners=tuple(_listeners(draft)), clusters=tuple(draft.clusters[name] for name in sorted(draft.clusters))
    )
    return plan, tuple(sorted(draft.conditions, key=lambda condition: (condition.kind, condition.key, condition.type)))


def _age(item: Pool | Route) -> tuple[float, Key]:
    return item.created, item.key


def _attach_pools(draft: _Draft, pools: Iterable[Pool]) -> None:
    """Exposure by annotation: a catch-all route on the port; the oldest pool wins it."""
    holders: dict[AttachTo, Key] = {}
    for pool in pools:
        if pool.attach_to is None:
            continue
        parent = RouteParent(pool.attach_to.gateway, port=pool.attach_to.port)
        sites = _sites(draft, pool, parent)
        holder = holders.setdefault(pool.attach_to, pool.key) if sites else pool.key
        if holder != pool.key:
            _say_conflict(draft, pool, pool.attach_to, holder)
            continue
        rule = RouteRule(backends=(BackendRef(BackendKind.POOL, pool.key),))
        _place(draft, pool, rule, [(*site, ("*",)) for site in sites], names_listener=True)


def _say_conflict(draft: _Draft, pool: Pool, wanted: AttachTo, holder: Key) -> None:
    draft.say(
        pool,
        "Accepted",
        "Conflicted",
        f"port {wanted.port} of Gateway {wanted.gateway} already leads to InferencePool {holder}, which is older; "
        "attach this pool to another port",
    )


def _attach_route(draft: _Draft, route: Route) -> None:
    for parent in route.parents:
        sites = [
            (gateway, listener, names)
            for gateway, listener in _sites(draft, route, parent)
            if (names := hostnames_on(listener, route.hostnames))
        ]
        if not sites and parent.gateway in draft.gateways and not _refused(draft, route):
            message = f"no listener of Gateway {parent.gateway} has a host name in common with the route's"
            draft.say(route, "Accepted", "NoMatchingListenerHostname", message)
        names_listener = parent.section is not None or parent.port is not None
        for index, rule in enumerate(route.rules):
            _place(
                draft, route, rule, [(*site[:2], site[2]) for site in sites], names_listener=names_listener, at=index
            )


def _refused(draft: _Draft, route: Route) -> bool:
    return any(c.key == route.key and c.kind == "HTTPRoute" and c.type == "Accepted" for c in draft.conditions)


def _sites(draft: _Draft, whose: Pool | Route, parent: RouteParent) -> list[tuple[Gateway, Listener]]:
    """The listeners that `parent` means and that let this object in. None: says why."""
    gateway = draft.gateways.get(parent.gateway)
    if gateway is None:
        known = ", ".join(str(key) for key in sorted(draft.gateways)) or "none"
        draft.say(whose, "Accepted", "NoMatchingParent", f"no Gateway {parent.gateway} (known: {known})")
        return []
    meant = listeners_for(gateway, parent.section, parent.port)
    if not meant:
        wanted = [f"named {parent.section}"] if parent.section else []
        wanted += [f"on port {parent.port}"] if parent.port else []
        known = ", ".join(f"{listener.name}:{listener.port}" for listener in gateway.listeners)
        message = f"Gateway {gateway.key} has no listener {' '.join(wanted)} (it has {known})"
        draft.say(whose, "Accepted", "NoMatchingParent", message)
        return []
    allowed = [(gateway, listener) for listener in meant if allows(gateway, listener, whose.key)]
    if not allowed:
        message = f"Gateway {gateway.key} lets only its own namespace attach; set allowedRoutes.namespaces.from: All"
        draft.say(whose, "Accepted", "NotAllowedByListeners", message)
    return allowed


def _place(
    draft: _Draft,
    owner: Pool | Route,
    rule: RouteRule,
    sites: list[tuple[Gateway, Listener, tuple[str, ...]]],
    *,
    names_listener: bool,
    at: int = 0,
) -> None:
    if not sites:
        return
    draft.say(owner, "Accepted", "Accepted", "attached", status=True)
    destinations = tuple(_destinations(draft, owner, rule))
    for gateway, listener, hostnames in sites:
        for number, match in enumerate(rule.matches):
            route = PlannedRoute(
                owner=owner.key,
                match=match,
                destinations=destinations,
                request_timeout=rule.request_timeout or None,
                try_timeout=rule.backend_timeout or None,
            )
            entry = Attached(route, hostnames, names_listener, owner.created, at * 1000 + number)
            draft.attached[gateway.key, listener.name].append(entry)


def _destinations(draft: _Draft, owner: Pool | Route, rule: RouteRule) -> Iterator[Destination]:
    weighted = [ref for ref in rule.backends if ref.weight > 0]
    if not weighted:
        yield Destination(Refusal(500, "the route has no backend"))
    for ref in weighted:
        cluster = draft.catalog.cluster(ref)
        if isinstance(cluster, str):
            draft.say(owner, "ResolvedRefs", "BackendNotFound", f"{cluster}; its requests are answered 503")
            yield Destination(Refusal(503, f"backend not found: {cluster}"), ref.weight)
            continue
        draft.clusters[cluster.name] = cluster
        draft.led_to.add(ref.key)
        if not cluster.endpoints and isinstance(owner, Route):
            message = f"no ready endpoint stands behind {ref.kind} {ref.key}"
            draft.say(owner, "BackendsAvailable", "EndpointsNotFound", message)
        yield Destination(cluster.name, ref.weight, _placement(draft, ref))


def _placement(draft: _Draft, ref: BackendRef) -> Placement | None:
    if ref.kind is not BackendKind.POOL:
        return None
    return Placement(ref.key, draft.catalog.pools[ref.key].failure_mode, draft.first_byte)


def _check_endpoints(draft: _Draft, pools: Iterable[Pool]) -> None:
    for pool in pools:
        cluster = draft.catalog.cluster(BackendRef(BackendKind.POOL, pool.key))
        if isinstance(cluster, Cluster) and not cluster.endpoints:
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
