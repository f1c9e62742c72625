"""What became of the objects that belong to pools: models, policies, objectives, rewrites. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from igw_api.objects import Key, Model, Policy
from igw_api.objectset import ObjectSet
from igw_api.resolution import age, shared_models, winning_policy
from igw_operator.plan.model import Condition

ACCEPTED = "Accepted"


def attachment_conditions(objects: ObjectSet, losers: Mapping[Key, Model]) -> Iterator[Condition]:
    """One condition per object. `losers`: models whose name is taken on a listener that their pool shares."""
    within: dict[Key, Model] = {}
    for pool in objects.pools:
        within |= shared_models((pool,), objects.models.values()).losers
    for model in objects.models.values():
        yield _model(model, objects, within | dict(losers))
    for policy in objects.policies.values():
        yield _policy(policy, objects)
    belonging = [("InferenceObjective", one.key, one.pool) for one in objects.objectives.values()]
    belonging += [("InferenceModelRewrite", one.key, one.pool) for one in objects.rewrites.values()]
    for kind, key, pool in belonging:
        missing = _missing(pool, objects)
        yield _refused(kind, key, "TargetNotFound", missing) if missing else _accepted(kind, key, "in force")


def _model(model: Model, objects: ObjectSet, losers: Mapping[Key, Model]) -> Condition:
    kind = "InferenceModel"
    if missing := _missing(model.pool, objects):
        return _refused(kind, model.key, "TargetNotFound", missing)
    if holder := losers.get(model.key):
        told = f"{model.name} is served by InferenceModel {holder.key} of InferencePool {holder.pool}, which is older"
        return _refused(kind, model.key, "ModelNameInUse", told)
    return _accepted(kind, model.key, "served")


def _policy(policy: Policy, objects: ObjectSet) -> Condition:
    kind = "InferencePoolPolicy"
    missing = [_missing(pool, objects) for pool in policy.pools if pool not in objects.pools]
    missing += [f"no Gateway {gateway}" for gateway in policy.gateways if gateway not in objects.gateways]
    held = [told for pool in policy.pools if (told := _held(policy, pool, objects))]
    held += [told for gateway in policy.gateways if (told := _held_gateway(policy, gateway, objects))]
    force = [str(pool) for pool in in_force(policy, objects)]
    told = "; ".join([*([f"in force for {', '.join(force)}"] if force else []), *held, *missing])
    if force:
        return _accepted(kind, policy.key, told)
    return _refused(kind, policy.key, "Conflicted" if held else "TargetNotFound", told)


def in_force(policy: Policy, objects: ObjectSet) -> tuple[Key, ...]:
    """The pools and Gateways that the policy applies to."""
    policies: Iterable[Policy] = objects.policies.values()
    pools = (pool for pool in policy.pools if pool in objects.pools and winning_policy(pool, policies) == policy)
    found = (gateway for gateway in policy.gateways if gateway in objects.gateways)
    return (*pools, *(gateway for gateway in found if _of_gateway(gateway, objects) == policy))


def _of_gateway(gateway: Key, objects: ObjectSet) -> Policy:
    return min((one for one in objects.policies.values() if gateway in one.gateways), key=age)


def _held_gateway(policy: Policy, gateway: Key, objects: ObjectSet) -> str:
    winner = _of_gateway(gateway, objects)
    held = gateway in objects.gateways and winner != policy
    return f"InferencePoolPolicy {winner.key}, which is older, applies to Gateway {gateway}" if held else ""


def _held(policy: Policy, pool: Key, objects: ObjectSet) -> str:
    winner = winning_policy(pool, objects.policies.values())
    if pool not in objects.pools or winner is None or age(winner) == age(policy):
        return ""
    return f"InferencePoolPolicy {winner.key}, which is older, applies to {pool}"


def _missing(pool: Key, objects: ObjectSet) -> str:
    return "" if pool in objects.pools else f"no InferencePool {pool}"


def _accepted(kind: str, key: Key, message: str) -> Condition:
    return Condition(kind, key, ACCEPTED, True, "Accepted", message)


def _refused(kind: str, key: Key, reason: str, message: str) -> Condition:
    return Condition(kind, key, ACCEPTED, False, reason, message)
