"""Who wins where objects contradict each other: the oldest, then the first by namespace and name.

Pure, and the same for both planes: the operator tells the losers, the picker serves the winners.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from igw_api.objects import AttachTo, Key, Model, Objective, Policy, Pool, Rewrite, RewriteRule, Route
from igw_api.split import Split


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The models of a pool, or of pools that share a listener.

    `losers`: by object, the model that has its name already (reason ModelNameInUse).
    """

    winners: Mapping[str, Model]
    losers: Mapping[Key, Model]


@dataclass(frozen=True, slots=True)
class Attachments:
    """Which pool a listener leads to by annotation. `losers`: by pool, the one that has its listener already."""

    winners: Mapping[AttachTo, Pool]
    losers: Mapping[Key, Pool]


def age(item: Model | Objective | Policy | Pool | Rewrite | Route) -> tuple[float, Key]:
    """Sort key: the oldest first, ties by namespace and name, so that the order of arrival never matters."""
    return item.created, item.key


def winning_models(pool: Key, models: Iterable[Model]) -> ModelNames:
    """The model behind each name that clients may ask of `pool`."""
    return shared_models((pool,), models)


def shared_models(pools: Collection[Key], models: Iterable[Model]) -> ModelNames:
    """The same for pools that share a listener: the model in a request tells whose it is, so names are unique there."""
    winners: dict[str, Model] = {}
    losers: dict[Key, Model] = {}
    for model in sorted((one for one in models if one.pool in pools), key=age):
        winner = winners.setdefault(model.name, model)
        if winner is not model:
            losers[model.key] = winner
    return ModelNames(winners, losers)


def winning_pools(pools: Iterable[Pool]) -> Attachments:
    """The pool behind each listener that `attach-to` annotations name."""
    winners: dict[AttachTo, Pool] = {}
    losers: dict[Key, Pool] = {}
    for pool in sorted(pools, key=age):
        if pool.attach_to is None:
            continue
        winner = winners.setdefault(pool.attach_to, pool)
        if winner is not pool:
            losers[pool.key] = winner
    return Attachments(winners, losers)


def winning_policy(pool: Key, policies: Iterable[Policy]) -> Policy | None:
    """The policy that applies to `pool`."""
    return min((one for one in policies if pool in one.pools), key=age, default=None)


def winning_policies(policies: Collection[Policy]) -> dict[Key, Policy]:
    """The policies that apply, by pool."""
    named = sorted({pool for one in policies for pool in one.pools})
    return {pool: won for pool in named if (won := winning_policy(pool, policies)) is not None}


def winning_access(target: Key, policies: Iterable[Policy], *, gateway: bool = False) -> tuple[Key, ...]:
    """The Secrets with the tokens that a pool's requests need, or a Gateway's. Empty: it asks for none."""
    if gateway:
        winner = min((one for one in policies if target in one.gateways), key=age, default=None)
    else:
        winner = winning_policy(target, policies)
    return winner.access if winner is not None else ()


def splits(policies: Collection[Policy]) -> dict[Key, Split]:
    """How requests are divided, by pool: those where the policy that applies says so."""
    asked = {pool for one in policies if one.split is not None for pool in one.pools}
    winners = ((pool, winning_policy(pool, policies)) for pool in sorted(asked))
    return {pool: one.split for pool, one in winners if one is not None and one.split is not None}


def rules_in_order(pool: Key, rewrites: Iterable[Rewrite]) -> tuple[RewriteRule, ...]:
    """The pool's rules: exact before generic, then the oldest object's, then as listed."""
    listed = [rule for one in sorted((r for r in rewrites if r.pool == pool), key=age) for rule in one.rules]
    return tuple(sorted(listed, key=lambda rule: not rule.models))


def rule_for(model: str, rules: Iterable[RewriteRule]) -> RewriteRule | None:
    """The rule that applies to `model`, of rules that are in order."""
    return next((rule for rule in rules if not rule.models or model in rule.models), None)
