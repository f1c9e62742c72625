"""Manifests to the status that users read, for tests: as when Envoy Gateway and the cluster have said yes to all."""

from collections.abc import Mapping
from typing import Any

import yaml

from igw_api.kinds import KINDS
from igw_api.manifests import collect, parse
from igw_api.objects import Key
from igw_operator.plan.build import build_plan
from igw_operator.render.envoy_gateway.values import Identity, Observed
from igw_operator.render.status.patches import statuses
from igw_operator.render.status.values import Declared, Facts
from igw_testing.plans import rendered

NOW = 1_800_000_000.0
DECLARED_KINDS = frozenset(
    {"InferencePool", "InferenceModel", "InferencePoolPolicy", "InferenceObjective", "InferenceModelRewrite"}
)
YES: dict[str, Any] = {"conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}]}


def facts_of(
    *texts: str,
    foreign: frozenset[Identity] = frozenset(),
    awaited: frozenset[Key] = frozenset(),
    said: Mapping[Identity, Mapping[str, Any]] | None = None,
) -> Facts:
    """The facts where everything is well, but for `foreign` names, `awaited` pickers and statuses in `said`."""
    objects, _ = collect({f"{number}.yaml": parse(text, f"{number}.yaml") for number, text in enumerate(texts)})
    plan, conditions = build_plan(objects)
    found: dict[Identity, Mapping[str, Any]] = {}
    for one in rendered(objects, plan):
        kind, key = one.identity
        if kind == "HTTPRoute":
            found[kind, key] = {"parents": [YES]}
        elif kind == "Deployment":
            found[kind, key] = {"availableReplicas": 1}
        elif kind.endswith("Policy"):
            found[kind, key] = {"ancestors": [YES]}
    observed = Observed(foreign=foreign, statuses={**found, **(said or {})}, awaited=awaited)
    return Facts(objects, plan, conditions, observed)


def declared_of(*texts: str) -> list[Declared]:
    """The users' objects in these manifests, without a status yet, with what is wrong with each."""
    _, problems = collect({f"{number}.yaml": parse(text, f"{number}.yaml") for number, text in enumerate(texts)})
    found = []
    for document in (one for text in texts for one in yaml.safe_load_all(text) if one):
        kind, meta = document["kind"], document["metadata"]
        key = Key(meta.get("namespace", "default"), meta["name"])
        if kind in DECLARED_KINDS and document["apiVersion"] in KINDS[kind]:
            mistakes = tuple(f"{one.path}: {one.message}" for one in problems if (one.kind, one.key) == (kind, key))
            found.append(Declared(document["apiVersion"], kind, key, 1, {}, mistakes))
    return found


def status_of(name: str, *texts: str, kind: str = "InferencePool", **how: Any) -> dict[str, Any]:
    """The status of the object `name` once it is written."""
    patches = statuses(declared_of(*texts), facts_of(*texts, **how), NOW)
    (found,) = [one.status for one in patches if (one.declared.kind, one.declared.key.name) == (kind, name)]
    return dict(found)


def words(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason by condition type, of a status that is about one Gateway or none."""
    parents = status.get("parents") or status.get("parent") or [status]
    (parent,) = parents
    return {one["type"]: (one["status"], one["reason"]) for one in parent["conditions"]}
