"""Listeners that somebody else's policy is for. No I/O.

Of several policies of a kind for one listener Envoy Gateway follows the oldest and refuses the others. Where that one
is not ours, requests would go past the picker, so `plan` gives such a listener to no pool. Ours, where it is the older
one, stays: then theirs is refused.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from igw_api.meta import seconds_since_epoch
from igw_api.objects import Key
from igw_operator.controller.resources import LISTENER_POLICIES, SECURITY_POLICY, Resource
from igw_operator.controller.store import Body, View, is_ours, key_of
from igw_operator.plan.build import Place


def occupied(view: View) -> Mapping[Place, str]:
    """Of each listener that others' policies hold, which one does, by kind and name."""
    return _held(view, LISTENER_POLICIES)


def unguarded(view: View) -> Mapping[Place, str]:
    """The same for policies that ask for tokens: ours would have no effect there."""
    return _held(view, (SECURITY_POLICY,))


def _held(view: View, resources: Iterable[Resource]) -> Mapping[Place, str]:
    found: dict[Place, str] = {}
    for resource in resources:
        rivals: dict[Place, list[Body]] = defaultdict(list)
        for body in view.of(resource).values():
            for place in _places(body):
                rivals[place].append(body)
        for place, bodies in rivals.items():
            oldest = min(bodies, key=_age)
            if not is_ours(oldest):
                found[place] = f"{resource.kind} {key_of(oldest)}"
    return found


def _places(policy: Body) -> Iterator[Place]:
    """The listeners that it names. One for a whole Gateway gives way to those for its listeners."""
    spec: Mapping[str, Any] = policy.get("spec") or {}
    single = spec.get("targetRef")
    for target in (*(spec.get("targetRefs") or ()), *((single,) if single else ())):
        if target.get("kind") == "Gateway" and target.get("sectionName"):
            yield Key(policy["metadata"].get("namespace", ""), target["name"]), target["sectionName"]


def _age(policy: Body) -> tuple[float, Key]:
    """Envoy Gateway's order: the time of creation, then the name."""
    return seconds_since_epoch(policy["metadata"].get("creationTimestamp")) or 0.0, key_of(policy)
