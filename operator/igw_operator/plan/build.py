"""Objects to plan: the whole of what a gateway shall do, and what became of each object. Pure.

Called by `standalone` (manifest files) and, on Kubernetes, by the reconciler. The result does not depend on the order
of the objects.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from igw_api.objects import (
    AttachTo,
    BackendKind,
    BackendRef,
    Gateway,
    Key,
    Listener,
    Model,
    Policy,
    Pool,
    Route,
    RouteMatch,
    RouteParent,
    RouteRule,
)
from igw_api.objectset import ObjectSet
from igw_api.resolution import age, winning_policies, winning_policy
from igw_operator.plan.attach import Refused, Seat, find_seats
from igw_operator.plan.attachments import attachment_conditions
from igw_operator.plan.backends import Catalog
from igw_operator.plan.certificates import certificate_conditions, openable, terminated
from igw_operator.plan.guards import find_guards, secret_conditions
from igw_operator.plan.model import (
    Cluster,
    Condition,
    Destination,
    GatewayPlan,
    Guards,
    Placement,
    PlannedListener,
    PlannedRoute,
    Refusal,
    Site,
)
from igw_operator.plan.routing import Attached, hosts
from igw_operator.plan.sharing import share
from igw_operator.plan.standbys import Standbys, find_standbys

Place = tuple[Key, str]  # a Gateway and one of its listeners, by name


@dataclass(slots=True)
class _Draft:
    """What has been decided so far."""

    catalog: Catalog
    gateways: Mapping[Key, Gateway]
    first_byte: bool
    occupied: Mapping[Place, str]
    standbys: Standbys
    timed: frozenset[Key]  # pools that limit the time to the first byte
    limited: frozenset[Key]  # pools that limit what API keys may use
    unguarded: Mapping[Place, str]
    guards: Guards
    attached: dict[Place, list[Attached]] = field(default_factory=lambda: defaultdict(list))
    clusters: dict[str, Cluster] = field(default_factory=dict)
    conditions: dict[Condition, None] = field(default_factory=dict)  # each once, in order
    led_to: set[Key] = field(default_factory=set)  # pools that some route leads to
    sites: list[Site] = field(default_factory=list)
    losers: dict[Key, Model] = field(default_factory=dict)  # by model, the older one with its name on a shared port

    def say(
        self,
        whose: Pool | Route,
        type_: str,
        reason: str,
        message: str,
        *,
        status: bool = False,
        parent: Key | None = None,
    ) -> None:
        kind = "InferencePool" if isinstance(whose, Pool) else "HTTPRoute"
        self.conditions[Condition(kind, whose.key, type_, status, reason, message, parent)] = None

    def use(self, cluster: Cluster, backend: Key) -> Cluster:
        """A route leads to `cluster`, which stands for `backend`."""
        self.clusters[cluster.name] = cluster
        self.led_to.add(backend)
        return cluster

    def placement(self, pool: Pool, site: Site | None = None) -> Placement:
        """How requests of `pool` are placed, or of all pools of `site`; whatever they may overflow to is led to."""
        pools = site.pools if site is not None else (pool.key,)
        overflows = {one.key: one for key in pools for one in self.standbys.by_pool.get(key, ())}
        for one in overflows.values():
            if one.pool is not None:
                self.use(self.catalog.pool_cluster(self.catalog.pools[one.pool]), one.pool)
        return Placement(
            pool=pool.key,
            failure_mode=pool.failure_mode,
            first_byte=self.first_byte,
            site=site,
            overflows=tuple(overflows.values()),
            timed=not self.timed.isdisjoint(pools),
            limited=not self.limited.isdisjoint(pools),
        )


def build_plan(
    objects: ObjectSet,
    *,
    first_byte: bool = True,
    controller: str | None = None,
    occupied: Mapping[Place, str] = MappingProxyType({}),
    sees_secrets: bool = True,
    unguarded: Mapping[Place, str] = MappingProxyType({}),
) -> tuple[GatewayPlan, tuple[Condition, ...]]:
    """The plan and the conditions. Nothing here raises: what cannot be honoured is a condition.

    `controller`: only Gateways whose class names it; None: all, whatever their class. `occupied`: listeners that no
    pool may have, and what holds them; `unguarded`: that none may have which depends on the Gateway's tokens.
    `sees_secrets`: whether `objects` has all Secrets.
    """
    draft = _Draft(
        catalog=Catalog(
            objects.pools,
            objects.services,
            tuple(objects.members.values()),
            winning_policies(objects.policies.values()),
        ),
        gateways=_gateways(objects, controller),
        first_byte=first_byte,
        occupied=occupied,
        standbys=find_standbys(objects, sees_secrets=sees_secrets),
        timed=_pools(objects, lambda policy: policy.first_byte is not None),
        limited=_pools(objects, _limits_keys),
        unguarded=unguarded,
        guards=find_guards(objects),
    )
    pools = sorted(objects.pools.values(), key=age)
    _attach_pools(draft, pools, objects)
    for route in sorted(objects.routes.values(), key=age):
        _attach_route(draft, route)
    _check_pools(draft, pools)
    clusters = tuple(draft.clusters[name] for name in sorted(draft.clusters))
    sites = tuple(sorted(draft.sites, key=lambda site: (site.gateway, site.listener)))
    standbys = draft.standbys
    plan = GatewayPlan(
        listeners=tuple(_listeners(draft, objects)),
        clusters=clusters,
        sites=sites,
        providers=tuple(standbys.providers[name] for name in sorted(standbys.providers)),
        standbys=standbys.keys,
        guards=draft.guards,
    )
    conditions = [*draft.conditions, *standbys.conditions, *attachment_conditions(objects, draft.losers)]
    if sees_secrets:
        conditions += [*secret_conditions(objects), *certificate_conditions(objects)]
    return plan, tuple(sorted(conditions, key=lambda condition: (condition.kind, condition.key, condition.type)))


def _pools(objects: ObjectSet, wanted: Callable[[Policy], bool]) -> frozenset[Key]:
    """Those whose policy is such a one."""
    policies = {pool: winning_policy(pool, objects.policies.values()) for pool in objects.pools}
    return frozenset(pool for pool, policy in policies.items() if policy is not None and wanted(policy))


def _limits_keys(policy: Policy) -> bool:
    return policy.limits is not None and bool(policy.limits.keys or policy.limits.models)


def _gateways(objects: ObjectSet, controller: str | None) -> Mapping[Key, Gateway]:
    if controller is None:
        return objects.gateways
    ours = {one.key.name for one in objects.gateway_classes.values() if one.controller == controller}
    return {key: gateway for key, gateway in objects.gateways.items() if gateway.class_name in ours}


def _attach_pools(draft: _Draft, pools: Iterable[Pool], objects: ObjectSet) -> None:
    """Exposure by annotation: a route for every request of that port, or for those of the pool's models."""
    wanting: dict[AttachTo, dict[Key, tuple[Seat, ...]]] = defaultdict(dict)
    for pool in pools:
        if pool.attach_to is None:
            continue
        seats = _seats(draft, pool, pool.attach_to, objects)
        if isinstance(seats, Refused):
            draft.say(pool, "Accepted", seats.reason, seats.message, parent=pool.attach_to.gateway)
        else:
            wanting[pool.attach_to][pool.key] = seats
    for wanted, found in wanting.items():
        sharing = share((objects.pools[key] for key in found), objects.models.values(), objects.policies.values())
        for key, why in sharing.refused.items():
            message = f"port {wanted.port} of Gateway {wanted.gateway} {why}; attach this one to another port"
            draft.say(objects.pools[key], "Accepted", "Conflicted", message, parent=wanted.gateway)
        draft.losers |= sharing.losers
        _seat_pools(draft, [(objects.pools[key], found[key]) for key in sharing.pools])


def _seats(draft: _Draft, pool: Pool, wanted: AttachTo, objects: ObjectSet) -> tuple[Seat, ...] | Refused:
    other = objects.gateways.get(wanted.gateway)
    if other is not None and wanted.gateway not in draft.gateways:
        return Refused("NotSupportedByParent", f"Gateway {other.key} has class {other.class_name}, which is not ours")
    seats = find_seats(draft.gateways, pool.key, RouteParent(wanted.gateway, port=wanted.port))
    if not isinstance(seats, Refused):
        depends = wanted.gateway in draft.guards.gateways and pool.key not in draft.guards.pools
        held = {**(draft.unguarded if depends else {}), **draft.occupied}
        for place in ((seat.gateway, seat.listener.name) for seat in seats):
            if place in held:
                told = f"{held[place]} is for listener {place[1]} of Gateway {place[0]} already"
                return Refused("Conflicted", f"{told}; remove it, or attach the pool to another port")
    return seats


def _seat_pools(draft: _Draft, pools: Iterable[tuple[Pool, tuple[Seat, ...]]]) -> None:
    """Give pools that share a port, the default first, their places on its listeners."""
    places: dict[Place, list[tuple[Pool, Seat]]] = defaultdict(list)
    for pool, seats in pools:
        draft.say(pool, "Accepted", "Accepted", "attached", status=True, parent=seats[0].gateway)
        for seat in seats:
            places[seat.gateway, seat.listener.name].append((pool, seat))
    for (gateway, listener), taken in places.items():
        site = Site(gateway, listener, taken[0][1].listener.port, tuple(pool.key for pool, _ in taken))
        draft.sites.append(site)
        for pool, seat in taken:
            route = _pool_route(draft, pool, site)
            draft.attached[gateway, listener].append(Attached(route, seat.hostnames, True, pool.created, 0))


def _pool_route(draft: _Draft, pool: Pool, site: Site) -> PlannedRoute:
    cluster = draft.use(draft.catalog.pool_cluster(pool), pool.key)
    is_default = site.pools[0] == pool.key
    shared = site if site.shared and is_default else None
    placement = draft.placement(pool, shared)
    return PlannedRoute(
        owner=pool.key,
        match=RouteMatch(),
        destinations=(Destination(cluster.name, placement=placement),),
        chosen=None if is_default else pool.key,
    )


def _attach_route(draft: _Draft, route: Route) -> None:
    for parent in route.parents:
        seats = find_seats(draft.gateways, route.key, parent, route.hostnames)
        if isinstance(seats, Refused):
            draft.say(route, "Accepted", seats.reason, seats.message)
        else:
            names_listener = parent.section is not None or parent.port is not None
            _seat(draft, route, route.rules, seats, names_listener=names_listener)


def _seat(
    draft: _Draft, route: Route, rules: Iterable[RouteRule], seats: Iterable[Seat], *, names_listener: bool
) -> None:
    draft.say(route, "Accepted", "Accepted", "attached", status=True)
    planned = [one for rule in rules for one in _planned(draft, route, rule)]
    for seat in seats:
        draft.attached[seat.gateway, seat.listener.name] += [
            Attached(one, seat.hostnames, names_listener, route.created, index) for index, one in enumerate(planned)
        ]


def _planned(draft: _Draft, owner: Route, rule: RouteRule) -> Iterator[PlannedRoute]:
    destinations = tuple(_destinations(draft, owner, rule))
    for match in rule.matches:
        yield PlannedRoute(
            owner=owner.key,
            match=match,
            destinations=destinations,
            request_timeout=rule.request_timeout or None,
            try_timeout=rule.backend_timeout or None,
        )


def _destinations(draft: _Draft, owner: Route, rule: RouteRule) -> Iterator[Destination]:
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
        draft.use(cluster, ref.key)
        if not cluster.endpoints and ref.key not in draft.catalog.pools:
            message = f"no ready endpoint stands behind {ref.kind} {ref.key}"
            draft.say(owner, "BackendsAvailable", "EndpointsNotFound", message)
        yield Destination(cluster.name, ref.weight, _placement(draft, ref))


def _placement(draft: _Draft, ref: BackendRef) -> Placement | None:
    if ref.kind is not BackendKind.POOL:
        return None
    return draft.placement(draft.catalog.pools[ref.key])


def _check_pools(draft: _Draft, pools: Iterable[Pool]) -> None:
    for pool in pools:
        if not draft.catalog.pool_cluster(pool).endpoints:
            labels = ",".join(f"{name}={value}" for name, value in sorted(pool.selector.items()))
            draft.say(pool, "BackendsAvailable", "EndpointsNotFound", f"no ready endpoint has the labels {labels}")
        if pool.key not in draft.led_to and pool.attach_to is None:
            message = "no route leads to it: annotate it with attach-to, or name it in an HTTPRoute"
            draft.say(pool, "Exposed", "NotExposed", message)


def _listeners(draft: _Draft, objects: ObjectSet) -> Iterator[PlannedListener]:
    for gateway in sorted(draft.gateways.values(), key=lambda gateway: gateway.key):
        by_port: dict[int, list[Listener]] = defaultdict(list)
        for listener in openable(gateway.listeners, objects):
            by_port[listener.port].append(listener)
        for port, sharing in sorted(by_port.items()):
            entries = [host for one in sharing for host in hosts(draft.attached[gateway.key, one.name])]
            yield PlannedListener(
                gateway=gateway.key,
                names=tuple(listener.name for listener in sharing),
                port=port,
                hosts=tuple(sorted({host.hostname: host for host in entries}.values(), key=lambda host: host.hostname)),
                tls=terminated(sharing, objects),
            )
