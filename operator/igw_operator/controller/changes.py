"""What differs between what shall be and what is: objects to apply and to delete, in order. Pure.

An object is applied when what we render of it changed, which a hash in an annotation tells, or when the live one lacks
something rendered. What the API server writes differently from what we sent (quantities, say) counts as rendered once
it has answered so.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from igw_api import wire
from igw_api.objects import Key
from igw_operator.controller.resources import BY_KIND, RENDERED, Resource
from igw_operator.controller.store import Body, View, is_ours, key_of
from igw_operator.render.envoy_gateway.manifests import SLICE_MAKER_LABEL
from igw_operator.render.envoy_gateway.values import Identity, Phase, Rendered

HASH_ANNOTATION: Final = "inferencegateway.io/rendered"
_MISSING: Final = object()

# The order within a phase, of kinds that need others: the API server binds no role that it does not know, and Pods
# need all the rest.
_RANKS: Final[Mapping[str, int]] = {"RoleBinding": 1, "Deployment": 2, "EndpointSlice": 2}

# In which phase an object of a kind that is not rendered any more goes.
_PHASES: Final[Mapping[str, Phase]] = {
    "HTTPRoute": Phase.ROUTE,
    "EnvoyExtensionPolicy": Phase.LISTENER_POLICY,
    "ClientTrafficPolicy": Phase.LISTENER_POLICY,
    "EnvoyPatchPolicy": Phase.LISTENER_POLICY,
    "SecurityPolicy": Phase.LISTENER_POLICY,
    "BackendTrafficPolicy": Phase.BACKEND_POLICY,
    "HTTPRouteFilter": Phase.BACKEND_POLICY,
}


@dataclass(frozen=True, slots=True)
class Application:
    """Apply `manifest`. `known`: it exists already and is ours."""

    resource: Resource
    phase: Phase
    manifest: Body
    known: bool

    @property
    def identity(self) -> Identity:
        """Kind and key."""
        return self.resource.kind, key_of(self.manifest)

    @property
    def step(self) -> tuple[int, int]:
        """Applications of one step do not depend on each other."""
        return self.phase, _RANKS.get(self.resource.kind, 0)


@dataclass(frozen=True, slots=True)
class Deletion:
    """Delete the object that has this uid."""

    resource: Resource
    phase: Phase
    key: Key
    uid: str

    @property
    def identity(self) -> Identity:
        """Kind and key."""
        return self.resource.kind, self.key

    @property
    def step(self) -> tuple[int, int]:
        """As for applications, the other way round."""
        return -self.phase, -_RANKS.get(self.resource.kind, 0)


@dataclass(frozen=True, slots=True)
class Changes:
    """In order: lower phases are applied first, and deleted last."""

    applications: tuple[Application, ...] = ()
    deletions: tuple[Deletion, ...] = ()

    def __len__(self) -> int:
        return len(self.applications) + len(self.deletions)


@dataclass(slots=True)
class Settled:
    """What the API server made of what we sent, where it wrote something differently."""

    _answers: dict[Identity, Any] = field(default_factory=dict)

    def remember(self, identity: Identity, manifest: Body, answer: Body) -> None:
        """Take `answer` for what was asked for."""
        if lacks(answer, manifest):
            self._answers[identity] = _projected(answer, manifest)
        else:
            self._answers.pop(identity, None)

    def accepts(self, identity: Identity, manifest: Body, live: Body) -> bool:
        """Whether `live` has all that was rendered."""
        if not lacks(live, manifest):
            return True
        return identity in self._answers and _projected(live, manifest) == self._answers[identity]


def find_changes(rendered: Iterable[Rendered], live: View, settled: Settled) -> Changes:
    """What to do so that `live` becomes what is rendered. Objects without our label are not deleted."""
    rendered = tuple(rendered)
    wanted = {one.identity for one in rendered}
    applications = (_application(one, live, settled) for one in rendered if not one.waits)
    deletions = [
        Deletion(resource, _PHASES.get(resource.kind, Phase.FOUNDATION), key, body["metadata"].get("uid", ""))
        for resource in RENDERED
        for key, body in live.of(resource).items()
        if _is_rendered(body) and (resource.kind, key) not in wanted and not _is_leaving(body)
    ]
    return Changes(
        tuple(sorted((one for one in applications if one), key=lambda one: one.step)),
        tuple(sorted(deletions, key=lambda one: one.step)),
    )


def _application(one: Rendered, live: View, settled: Settled) -> Application | None:
    kind, key = one.identity
    resource = BY_KIND[kind]
    manifest = stamped(one.manifest)
    known = live.get(resource, key)
    if known is None or not is_ours(known):
        return Application(resource, one.phase, manifest, known=False)
    if _is_leaving(known):
        return None  # applied anew when it is gone
    if settled.accepts(one.identity, manifest, known):
        return None
    return Application(resource, one.phase, manifest, known=True)


def stamped(manifest: Body) -> Body:
    """With the hash of the rest, which also says that it was us who rendered it."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    meta = manifest["metadata"]
    return {
        **manifest,
        "metadata": {**meta, "annotations": {**meta.get("annotations", {}), HASH_ANNOTATION: digest}},
    }


def _is_rendered(body: Body) -> bool:
    # Controllers copy our labels to what they derive from our objects. Most leave out annotations, but the one that
    # mirrors Endpoints does not; whose a slice is, its own label says.
    meta = body["metadata"]
    maker = (meta.get("labels") or {}).get(SLICE_MAKER_LABEL, wire.MANAGED_BY)
    return is_ours(body) and maker == wire.MANAGED_BY and HASH_ANNOTATION in (meta.get("annotations") or {})


def _is_leaving(body: Body) -> bool:
    return "deletionTimestamp" in body["metadata"]


def lacks(live: Any, wanted: Any) -> bool:
    """Whether `live` lacks something of `wanted`. Mappings may have more; lists must be as long."""
    if isinstance(wanted, Mapping):
        return not isinstance(live, Mapping) or any(
            lacks(live.get(name, _MISSING), value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            not isinstance(live, list)
            or len(live) != len(wanted)
            or any(lacks(one, other) for one, other in zip(live, wanted, strict=True))
        )
    return bool(live != wanted) and not (live is _MISSING and wanted in (None, ""))


def _projected(live: Any, wanted: Any) -> Any:
    """The part of `live` that `wanted` speaks of."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return {name: _projected(live.get(name), value) for name, value in wanted.items()}
    if isinstance(wanted, list) and isinstance(live, list) and len(live) == len(wanted):
        return [_projected(one, other) for one, other in zip(live, wanted, strict=True)]
    return live
