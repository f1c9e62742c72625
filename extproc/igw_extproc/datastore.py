"""What the picker serves now: pools with their endpoints, models, objectives, rewrites and policy; routes to them.

Filled by `sources` with whole sets of accepted objects; read by `director` for each request. No I/O, no load: load is
in `inflight`. A view is immutable; a new set of objects makes new views.

Of a change of routes the picker hears first, and proxies act on it later. Until they do, requests still land on a route
that is gone: for a while it leads where it led, as far as that is still there.
"""

import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from igw_api.limits import Limits
from igw_api.objects import (
    FailureMode,
    Key,
    Lead,
    Model,
    Objective,
    Policy,
    Pool,
    Queue,
    RewriteRule,
    Shadow,
    Target,
    addresses,
)
from igw_api.objectset import ObjectSet
from igw_api.resilience import PassiveHealth
from igw_api.resolution import age, rule_for, rules_in_order, winning_models, winning_policy
from igw_api.split import Split
from igw_api.standby import Standby
from igw_extproc.domain import Endpoint
from igw_extproc.errors import NoEndpoints, UnknownModel
from igw_extproc.scheduling.policies import POLICIES, SPLITS

log = logging.getLogger(__name__)

# Some gateways name each match of a route apart: "httproute/NAMESPACE/NAME/rule/0/match/1/HOST".
_MATCH = "/match/"
# Seconds after which every proxy knows of a change. They need less than one, but for those that are very busy.
LINGERS: Final = 30.0


class Resolved(NamedTuple):
    """How a request's model is served. `target` None: the body stays as it is."""

    target: str | None
    priority: int
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool as requests see it. `rules` are in order of precedence, exact ones first."""

    pool: Pool
    endpoints: tuple[Endpoint, ...]
    policy: str
    models: Mapping[str, Model] = field(default_factory=dict)
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    rules: tuple[RewriteRule, ...] = ()
    queue: Queue | None = None  # None: requests do not wait with us
    shadow: Shadow | None = None
    split: Split | None = None  # None: one endpoint serves a whole request, placed by `policy`
    standbys: tuple[Standby, ...] = ()  # who takes what it cannot, in this order
    passive_health: PassiveHealth = field(default_factory=PassiveHealth)
    first_byte: float | None = None  # seconds that a stream may take to its first byte
    explains: bool = False  # decisions, to clients that ask
    limits: Limits | None = None  # None: there are none
    unseen: bool = False  # nobody could tell us of its endpoints: to have seen none would be another matter
    name: str = field(init=False)  # "namespace/name", which is also the name of the pool's route
    named: frozenset[str] = field(init=False)  # the models that some object names: others are what clients make up

    def __post_init__(self) -> None:
        """What every request needs is made once."""
        object.__setattr__(self, "name", str(self.pool.key))
        limited = self.limits.models if self.limits is not None else ()
        object.__setattr__(self, "named", frozenset((*self.models, *limited)))

    @property
    def opens_unseen(self) -> bool:
        """Whether the proxy shall choose, since nobody could tell us of the pool's endpoints."""
        return self.unseen and self.pool.failure_mode is FailureMode.OPEN

    @property
    def only_model(self) -> str | None:
        """The pool's model, if it has exactly one."""
        return next(iter(self.models)) if len(self.models) == 1 else None

    def served(self) -> list[str]:
        """The declared names that clients may ask for."""
        return [name for name, one in self.models.items() if not _is_reserved(one)]

    def _reachable(self) -> set[str]:
        """The names that a request may have when it leaves, where the pool declares models."""
        targets = {target.name for one in self.models.values() for target in one.targets if target.weight}
        return targets.union(self.served())

    def resolve(self, model: str | None, rewrite: str | None, objective: str | None, rng: random.Random) -> Resolved:
        """Target name and priority. Raises UnknownModel where the pool declares models but does not serve `model`."""
        priority, target = 0, model
        if model is not None and self.models:
            declared = self.models.get(model)
            if declared is None or _is_reserved(declared):
                raise UnknownModel(model, sorted(self.served()))
            priority = declared.priority
            target = _weighted(declared.targets, rng) or model
        rule = rule_for(model, self.rules) if model is not None else None
        if rule is not None:
            target = _weighted(rule.targets, rng) or target
        elif rewrite:
            if self.models and rewrite not in self._reachable():
                raise UnknownModel(rewrite, sorted(self.served()))
            target = rewrite
        if objective is not None and objective in self.objectives:
            priority = self.objectives[objective].priority
        # Whichever way the name came about: one that the client did not use is most likely an adapter's.
        return Resolved(target, priority, target if target != model else None)


def _is_reserved(model: Model) -> bool:
    """Its targets all weigh 0: nobody else may have the name, and nobody is served under it."""
    return bool(model.targets) and not any(target.weight for target in model.targets)


def _weighted(targets: tuple[Target, ...], rng: random.Random) -> str | None:
    if len(targets) < 2:
        return targets[0].name if targets else None
    return rng.choices(targets, [target.weight for target in targets])[0].name


@dataclass(frozen=True, slots=True)
class RouteView:
    """Where one route of the proxy leads: `pools`, the default first. `announce`: the answer must name the pool."""

    pools: tuple[PoolView, ...]
    announce: bool = False
    owners: Mapping[str, PoolView] = field(default_factory=dict)  # by model, where several pools share the route

    @classmethod
    def to(cls, pools: tuple[PoolView, ...], announce: bool) -> "RouteView":
        """A model that several of the pools declare belongs to the pool of the oldest declaration."""
        owners: dict[str, PoolView] = {}
        for view in pools if len(pools) > 1 else ():
            for name, model in view.models.items():
                if name not in owners or age(model) < age(owners[name].models[name]):
                    owners[name] = view
        return cls(pools, announce, owners)

    def pool_for(self, model: str | None) -> PoolView:
        """The pool of `model`: its owner, else one that serves any name. None: the default. Raises UnknownModel."""
        if model is None or len(self.pools) == 1:
            return self.pools[0]
        view = self.owners.get(model) or next((one for one in self.pools if not one.models), None)
        if view is None:
            raise UnknownModel(model, sorted({name for one in self.pools for name in one.served()}))
        return view


class _Former(NamedTuple):
    """A lead that is gone, as it is now; `until` by the datastore's clock."""

    lead: Lead
    view: RouteView
    until: float


class Datastore:
    """The current views by pool and by route, and who wants to know of a change. `clock`: any seconds."""

    def __init__(self, default_policy: str, clock: Callable[[], float]) -> None:
        self._default_policy = default_policy
        self._clock = clock
        self._unknown_policies: set[str] = set()
        self._views: dict[str, PoolView] = {}
        self._routes: dict[str, RouteView] = {}
        self._leads: Mapping[str, Lead] = {}
        self._former: dict[str, _Former] = {}
        self._listeners: list[Callable[[], None]] = []
        self.synced = False

    @property
    def views(self) -> Mapping[str, PoolView]:
        """Views by "namespace/name"."""
        return self._views

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called after each change."""
        self._listeners.append(listener)

    def replace(self, objects: ObjectSet, unseen: Collection[Key] = ()) -> None:
        """Serve exactly these objects from now on. `unseen`: the pools whose endpoints could not be asked for."""
        views = (self._view(pool, objects, pool.key in unseen) for pool in objects.pools.values())
        self._views = {view.name: view for view in views}
        self._routes = {name: RouteView((view,)) for name, view in self._views.items()}
        self._routes.update({name: self._route(lead) for name, lead in objects.leads.items()})
        self._former = self._remembered(objects.leads)
        self._leads = objects.leads
        self.synced = True
        for listener in self._listeners:
            listener()

    def endpoints(self) -> list[Endpoint]:
        """The endpoints of all pools, each once."""
        return list({one.address: one for view in self._views.values() for one in view.endpoints}.values())

    def is_foreign(self, name: str | None) -> bool:
        """Whether a route of this name is somebody else's. Where no leads say which are ours, none is."""
        base = _base(name)
        return bool(self._leads) and bool(base) and base not in self._routes and self._formerly(base) is None

    def route(self, name: str | None) -> RouteView:
        """Where a route leads: as its lead says, else to the pool of its name, else to the only pool.

        Raises NoEndpoints.
        """
        found = self._routes.get(_base(name)) or self._formerly(_base(name))
        if found is None and len(self._views) == 1:
            found = RouteView(tuple(self._views.values()))
        if found is not None and found.pools:
            return found
        if not self._views:
            raise NoEndpoints("This gateway has no pool.")
        raise NoEndpoints(f"No pool belongs to the route `{name}`." if name else "The request names no pool.")

    def _formerly(self, base: str) -> RouteView | None:
        """Where a route led that has gone a short time ago."""
        former = self._former.get(base)
        return former.view if former is not None and self._clock() < former.until else None

    def _remembered(self, leads: Mapping[str, Lead]) -> "dict[str, _Former]":
        """The leads that are not among the new `leads`, for as long as they linger."""
        now = self._clock()
        before = {name: (one.lead, one.until) for name, one in self._former.items() if one.until > now}
        before |= {name: (lead, now + LINGERS) for name, lead in self._leads.items()}
        found = {
            name: _Former(lead, self._route(lead), until) for name, (lead, until) in before.items() if name not in leads
        }
        return {name: one for name, one in found.items() if one.view.pools}

    def _route(self, lead: Lead) -> RouteView:
        """Pools that are not there (yet) are passed over: the others serve."""
        found = (self._views.get(str(key)) for key in lead.pools)
        return RouteView.to(tuple(view for view in found if view is not None), lead.announce)

    def _policy(self, policy: Policy | None) -> str:
        """The name of its scheduling policy."""
        name = policy.scheduling if policy is not None else None
        if name is None or name in SPLITS or self._knows(name):
            return name or self._default_policy
        return self._default_policy

    def _shadow(self, policy: Policy | None) -> Shadow | None:
        shadow = policy.shadow if policy is not None else None
        return shadow if shadow is not None and self._knows(shadow.policy) else None

    def _knows(self, name: str) -> bool:
        """Whether there is such a policy. One that a newer operator may know must not stop an older picker."""
        if name in POLICIES:
            return True
        if name not in self._unknown_policies:
            self._unknown_policies.add(name)
            log.error("unknown policy, the default is used name=%s default=%s", name, self._default_policy)
        return False

    def _view(self, pool: Pool, objects: ObjectSet, unseen: bool) -> PoolView:
        policy = winning_policy(pool.key, objects.policies.values())
        return PoolView(
            pool=pool,
            endpoints=tuple(_endpoints(pool, objects)),
            policy=self._policy(policy),
            queue=_queue(policy),
            shadow=self._shadow(policy),
            split=_split(policy),
            standbys=policy.standbys if policy is not None else (),
            passive_health=policy.passive_health if policy is not None else PassiveHealth(),
            first_byte=policy.first_byte if policy is not None else None,
            explains=policy is not None and policy.explains,
            limits=policy.limits if policy is not None else None,
            models=winning_models(pool.key, objects.models.values()).winners,
            objectives={o.key.name: o for o in objects.objectives.values() if o.pool == pool.key},
            rules=rules_in_order(pool.key, objects.rewrites.values()),
            unseen=unseen,
        )


def _split(policy: Policy | None) -> Split | None:
    """How the pool divides requests. An operator that does not say more than the name means the defaults."""
    if policy is None or policy.split is not None or policy.scheduling not in SPLITS:
        return policy.split if policy is not None else None
    return Split(dynamic=policy.scheduling == SPLITS[1])


def _queue(policy: Policy | None) -> Queue | None:
    """Every pool has one, unless its policy says that nobody may wait."""
    queue = policy.queue if policy is not None and policy.queue is not None else Queue()
    return queue if queue.max_size else None


def _base(route: str | None) -> str:
    """A route's name up to its match."""
    return route.partition(_MATCH)[0] if route else ""


def _endpoints(pool: Pool, objects: ObjectSet) -> Iterable[Endpoint]:
    for member in objects.members.values():
        if member.ready and member.key.namespace == pool.key.namespace:
            for address in addresses(pool, member):
                yield Endpoint(address, member.labels)
