"""What the picker serves now: pools with their endpoints, models, objectives, rewrites and policy.

Filled by `sources` with whole sets of accepted objects; read by `director` for each request. No I/O, no load: load is
in `inflight`. A view is immutable; a new set of objects makes new views.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from igw_api.objects import Model, Objective, Pool, RewriteRule, Target, addresses
from igw_api.objectset import ObjectSet
from igw_api.resolution import rule_for, rules_in_order, winning_models, winning_policy
from igw_extproc.domain import Endpoint
from igw_extproc.errors import NoEndpoints, UnknownModel


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

    @property
    def name(self) -> str:
        """ "namespace/name", which is also the name of the pool's route."""
        return str(self.pool.key)

    @property
    def only_model(self) -> str | None:
        """The pool's model, if it has exactly one."""
        return next(iter(self.models)) if len(self.models) == 1 else None

    def resolve(self, model: str | None, rewrite: str | None, objective: str | None, rng: random.Random) -> Resolved:
        """Target name and priority. Raises UnknownModel where the pool declares models but does not serve `model`."""
        priority, target = 0, model
        if model is not None and self.models:
            declared = self.models.get(model)
            if declared is None or _is_reserved(declared):
                raise UnknownModel(model, sorted(name for name, one in self.models.items() if not _is_reserved(one)))
            priority = declared.priority
            target = _weighted(declared.targets, rng) or model
        rule = rule_for(model, self.rules) if model is not None else None
        if rule is not None:
            target = _weighted(rule.targets, rng) or target
        elif rewrite:
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


class Datastore:
    """The current views by pool, and who wants to know of a change."""

    def __init__(self, default_policy: str) -> None:
        self._default_policy = default_policy
        self._views: dict[str, PoolView] = {}
        self._listeners: list[Callable[[], None]] = []
        self.synced = False

    @property
    def views(self) -> Mapping[str, PoolView]:
        """Views by "namespace/name"."""
        return self._views

    def subscribe(self, listener: Callable[[], None]) -> None:
        """`listener` is called after each change."""
        self._listeners.append(listener)

    def replace(self, objects: ObjectSet) -> None:
        """Serve exactly these objects from now on."""
        self._views = {str(key): self._view(pool, objects) for key, pool in objects.pools.items()}
        self.synced = True
        for listener in self._listeners:
            listener()

    def endpoints(self) -> list[Endpoint]:
        """The endpoints of all pools, each once."""
        return list({one.address: one for view in self._views.values() for one in view.endpoints}.values())

    def pool_for(self, route: str | None) -> PoolView:
        """The pool that a route leads to: named by it, or the only one. Raises NoEndpoints."""
        view = self._views.get(route or "")
        if view is not None:
            return view
        if len(self._views) == 1:
            return next(iter(self._views.values()))
        if not self._views:
            raise NoEndpoints("This gateway has no pool.")
        raise NoEndpoints(f"No pool belongs to the route `{route}`." if route else "The request names no pool.")

    def _view(self, pool: Pool, objects: ObjectSet) -> PoolView:
        policy = winning_policy(pool.key, objects.policies.values())
        return PoolView(
            pool=pool,
            endpoints=tuple(_endpoints(pool, objects)),
            policy=(policy.scheduling if policy is not None else None) or self._default_policy,
            models=winning_models(pool.key, objects.models.values()).winners,
            objectives={o.key.name: o for o in objects.objectives.values() if o.pool == pool.key},
            rules=rules_in_order(pool.key, objects.rewrites.values()),
        )


def _endpoints(pool: Pool, objects: ObjectSet) -> Iterable[Endpoint]:
    for member in objects.members.values():
        if member.ready and member.key.namespace == pool.key.namespace:
            for address in addresses(pool, member):
                yield Endpoint(address, member.labels)
