"""From one view of the cluster to what follows: plan, rendered objects, changes, and what pools are told. Pure.

Called by `reconcile`, in a thread: nothing here waits, and nothing is changed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from igw_api import wire
from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_operator.controller.changes import Changes, Settled, find_changes
from igw_operator.controller.inventory import Inventory
from igw_operator.controller.occupied import occupied, unguarded
from igw_operator.controller.resources import RENDERED, SERVICE
from igw_operator.controller.store import Body, View, is_ours
from igw_operator.plan.attachments import in_force
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import Condition, GatewayPlan
from igw_operator.render.envoy_gateway.names import label, names_of
from igw_operator.render.envoy_gateway.objects import render
from igw_operator.render.envoy_gateway.standby import why_unusable
from igw_operator.render.envoy_gateway.values import Identity, Observed, Options, Rendered

_SITE_LABELS: Final = (wire.GATEWAY_NAMESPACE_LABEL, wire.GATEWAY_LABEL, wire.LISTENER_LABEL)
_POOL_LABELS: Final = (wire.POOL_NAMESPACE_LABEL, wire.POOL_LABEL)

Awaited = Callable[[Iterable[Key]], frozenset[Key]]  # those of the pickers that are waited for


@dataclass(frozen=True, slots=True)
class Decision:
    """What one view of the cluster leads to. `observed`: what it was decided by."""

    inventory: Inventory
    plan: GatewayPlan
    conditions: tuple[Condition, ...]
    observed: Observed
    rendered: tuple[Rendered, ...]
    changes: Changes


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator's configuration says: whose Gateways are served, and how pickers run."""

    controller_name: str
    options: Options


def decide(
    inventory: Inventory, taken: frozenset[Identity], view: View, settled: Settled, rules: Rules, awaited: Awaited
) -> Decision:
    """What is meant, and how the cluster differs from it. `taken`: names that are somebody else's."""
    plan, conditions = build_plan(
        inventory.objects,
        controller=rules.controller_name,
        occupied=occupied(view),
        unguarded=unguarded(view),
        sees_secrets=False,
    )
    observed = observe(view, taken, awaited(pickers(plan)))
    rendered = render(plan, inventory.objects, observed, rules.options)
    conditions = (*conditions, *standby_conditions(plan, inventory.objects, observed, rules.options))
    return Decision(inventory, plan, conditions, observed, rendered, find_changes(rendered, view, settled))


def standby_conditions(
    plan: GatewayPlan, objects: ObjectSet, observed: Observed, options: Options
) -> tuple[Condition, ...]:
    """Which standbys cannot be used, and why: one condition for each."""
    found = []
    for site in plan.sites:
        for policy in objects.policies.values():
            for one in policy.standbys if any(pool in in_force(policy, objects) for pool in site.pools) else ():
                why = why_unusable(site, policy.key, one, observed, options)
                if why is not None:
                    told = f"standby {one.name} is not in use: {why[1]}"
                    found.append(Condition("InferencePoolPolicy", policy.key, "ResolvedRefs", False, why[0], told))
    return tuple(dict.fromkeys(found))


def pickers(plan: GatewayPlan) -> tuple[Key, ...]:
    """What the pickers' objects are called."""
    names = names_of(plan.sites)
    return tuple(names.site(site) for site in plan.sites)


def observe(view: View, taken: frozenset[Identity], awaited: frozenset[Key]) -> Observed:
    """What the renderers want to know of the cluster."""
    cluster_ips: dict[Key, str] = {}
    statuses = {}
    foreign = set(taken)
    for resource in RENDERED:
        for key, body in view.of(resource).items():
            if not is_ours(body):
                foreign.add((resource.kind, key))
            elif "status" in body:
                statuses[resource.kind, key] = body["status"]
    for key, body in view.of(SERVICE).items():
        address = body.get("spec", {}).get("clusterIP")
        if is_ours(body) and address not in (None, "", "None"):
            cluster_ips[key] = address
    return Observed(cluster_ips, frozenset(foreign), statuses, awaited)


def with_failures(decision: Decision, failures: Mapping[Identity, str]) -> tuple[Condition, ...]:
    """The plan's conditions, where those of pools say what could not be written for them."""
    if not failures:
        return decision.conditions
    pools: dict[Key, str] = {}
    for one in decision.rendered:
        if one.identity in failures:
            kind, key = one.identity
            for pool in concerned(one.manifest, decision.plan):
                pools.setdefault(pool, f"{kind} {key} could not be written: {failures[one.identity]}")
    return tuple(
        replace(one, status=False, reason="NotWritten", message=pools[one.key])
        if one.kind == "InferencePool" and one.type == "Accepted" and one.status and one.key in pools
        else one
        for one in decision.conditions
    )


def concerned(manifest: Body, plan: GatewayPlan) -> tuple[Key, ...]:
    """The pools that an object of ours is for: its own, or all of its listener."""
    labels = manifest["metadata"]["labels"]
    found = []
    for site in plan.sites:
        place = (site.gateway.namespace, site.gateway.name, site.listener)
        if tuple(labels.get(name) for name in _SITE_LABELS) != tuple(label(part) for part in place):
            continue
        own = tuple(labels.get(name) for name in _POOL_LABELS)
        found += [pool for pool in site.pools if own in ((None, None), tuple(label(part) for part in pool))]
    return tuple(found)
