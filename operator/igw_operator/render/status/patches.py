"""The status of every object that users declare, as patches of what differs. Pure.

Called by the reconciler after each pass. A status that says what is true already gives no patch, so that a second pass
writes nothing.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from igw_api.meta import GATEWAY_GROUP, X_K8S_GROUP
from igw_api.objects import Key, Policy
from igw_api.resolution import shared_models, winning_policy
from igw_operator.plan.attachments import in_force
from igw_operator.plan.model import Condition
from igw_operator.render.status.pools import ACCEPTED, FALSE, TRUE, UNKNOWN, Pools, counted, pools_of
from igw_operator.render.status.values import Declared, Entry, Facts, Said, StatusPatch

CONTROLLER: Final = "inferencegateway.io/inference-gateway"
# The picker's own default.
DEFAULT_POLICY: Final = "prefix-cache"
RESOLVED: Final = "ResolvedRefs"
_LONGEST: Final = 1024
_WORST: Final = (FALSE, UNKNOWN, TRUE)
_KEPT: Final = "the last valid version stays in force"

Json = dict[str, Any]


def statuses(declared: Iterable[Declared], facts: Facts, now: float) -> tuple[StatusPatch, ...]:
    """A patch for each object whose status is not what it should be. `now`: seconds since the epoch."""
    pools = pools_of(facts)
    accepted = {(one.kind, one.key): one for one in facts.conditions if one.type == ACCEPTED and one.parent is None}
    time = datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return tuple(_patches(declared, pools, accepted, time))


def _patches(
    declared: Iterable[Declared], pools: Pools, accepted: Mapping[tuple[str, Key], Condition], time: str
) -> Iterator[StatusPatch]:
    for one in declared:
        if one.kind == "InferencePool":
            wanted = _pool(one, pools, time)
        else:
            wanted = _attached(one, accepted.get((one.kind, one.key)), pools.facts, time)
        gone = dict.fromkeys(name for name in one.status if name not in wanted)
        changed = {name: value for name, value in wanted.items() if one.status.get(name) != value}
        if changed or gone:
            yield StatusPatch(one, {**changed, **gone})


def _attached(one: Declared, planned: Condition | None, facts: Facts, time: str) -> Json:
    """Models, policies, objectives, rewrites: one condition each."""
    if one.mistakes:
        said = _invalid(one, kept=planned is not None)
    elif planned is None:
        said = Said(ACCEPTED, UNKNOWN, "Pending", "not read yet")
    else:
        said = Said(ACCEPTED, TRUE if planned.status else FALSE, planned.reason, planned.message)
    policy = facts.objects.policies.get(one.key) if one.kind == "InferencePoolPolicy" else None
    references = _references(policy, facts) if policy is not None else ()
    status: Json = {"conditions": _timed((said, *references), one.status.get("conditions"), one.generation, time)}
    if policy is not None:
        status["pools"] = [key.name for key in in_force(policy, facts.objects) if key in facts.objects.pools]
    return status


def _references(policy: Policy, facts: Facts) -> tuple[Said, ...]:
    """Whether its standbys can be used: the ones that cannot, with the first one's reason."""
    if not policy.standbys:
        return ()
    wrong = [one for one in facts.conditions if one.key == policy.key and one.type == RESOLVED]
    wrong = [one for one in wrong if one.kind == "InferencePoolPolicy"]
    if not wrong:
        return (Said(RESOLVED, TRUE, RESOLVED, "all standbys can be used"),)
    return (Said(RESOLVED, FALSE, wrong[0].reason, "; ".join(dict.fromkeys(one.message for one in wrong))),)


def _pool(one: Declared, pools: Pools, time: str) -> Json:
    """The alpha versions have the same list under another name, and a summary."""
    facts = pools.facts
    alpha = one.api_version.startswith(X_K8S_GROUP)
    parents = "parent" if alpha else "parents"
    entries = _entries(one, pools)
    status: Json = {parents: _parents(entries, one.status.get(parents), one.generation, time)}
    if alpha:
        summary = _summary(entries)
        status["conditions"] = _timed(summary, one.status.get("conditions"), one.generation, time)
    pool = facts.objects.pools.get(one.key)
    if pool is not None:
        ready, total = counted(pool, facts)
        policy = winning_policy(pool.key, facts.objects.policies.values())
        status |= {
            "policy": (policy.scheduling if policy else None) or DEFAULT_POLICY,
            "endpoints": {"ready": ready, "total": total},
            "models": _models(one.key, pools),
        }
    return status


def _entries(one: Declared, pools: Pools) -> tuple[Entry, ...]:
    known = one.key in pools.facts.objects.pools
    entries = pools.entries(one.key) if known else (Entry(None, ()),)
    if not one.mistakes:
        return entries if known else (Entry(None, (Said(ACCEPTED, UNKNOWN, "Pending", "not read yet"),)),)
    invalid = _invalid(one, kept=known)
    return tuple(
        Entry(entry.parent, (invalid, *(said for said in entry.conditions if said.type != ACCEPTED)))
        for entry in entries
    )


def _invalid(one: Declared, *, kept: bool) -> Said:
    told = "; ".join([*one.mistakes, *([_KEPT] if kept else [])])
    return Said(ACCEPTED, FALSE, "Invalid", told)


def _models(pool: Key, pools: Pools) -> int:
    """How many names clients may ask for; those that an older model has elsewhere on the port are not the pool's."""
    models = pools.facts.objects.models.values()
    sharing = [site.pools for site in pools.sites.get(pool, ())] or [(pool,)]
    names = shared_models(sharing[0], models).winners
    return sum(model.pool == pool for model in names.values())


def _parents(entries: Iterable[Entry], before: Any, generation: int, time: str) -> list[Json]:
    """Our entries, beside those that other controllers wrote."""
    written: list[Json] = list(before or [])
    ours = [one for one in written if one.get("controllerName") == CONTROLLER]
    others = [one for one in written if one.get("controllerName") != CONTROLLER and not _is_default(one)]
    return [*others, *(_parent(entry, ours, generation, time) for entry in entries)]


def _is_default(entry: Json) -> bool:
    """Written by the API server where nobody had anything to say."""
    return (entry.get("parentRef") or {}).get("kind") == "Status"


def _parent(entry: Entry, ours: Sequence[Json], generation: int, time: str) -> Json:
    if entry.parent is None:
        ref = {"group": GATEWAY_GROUP, "kind": "Status", "name": "default"}
    else:
        ref = {
            "group": GATEWAY_GROUP,
            "kind": "Gateway",
            "namespace": entry.parent.namespace,
            "name": entry.parent.name,
        }
    before = next((one.get("conditions") for one in ours if one.get("parentRef") == ref), None)
    return {
        "parentRef": ref,
        "controllerName": CONTROLLER,
        "conditions": _timed(entry.conditions, before, generation, time),
    }


def _summary(entries: Iterable[Entry]) -> tuple[Said, ...]:
    """The worst word on each aspect."""
    found: dict[str, Said] = {}
    for said in (said for entry in entries for said in entry.conditions):
        best = found.setdefault(said.type, said)
        if _WORST.index(said.status) < _WORST.index(best.status):
            found[said.type] = said
    return tuple(found.values())


def _timed(said: Iterable[Said], before: Any, generation: int, time: str) -> list[Json]:
    """The conditions; the time is that of the last change of the status, not of the words."""
    known = {one.get("type"): one for one in before or []}
    return [
        {
            "type": one.type,
            "status": one.status,
            "reason": one.reason,
            "message": one.message[:_LONGEST],
            "lastTransitionTime": _since(one, known.get(one.type)) or time,
            "observedGeneration": generation,
        }
        for one in said
    ]


def _since(said: Said, before: Json | None) -> str | None:
    return before.get("lastTransitionTime") if before and before.get("status") == said.status else None
