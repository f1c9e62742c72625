"""All watched objects in memory, and whether they are complete. No I/O; single-threaded.

`watch` and the answers to our own writes put objects in. The watch cannot be trusted alone: a listing that starts
anew, after a pause or a gap, does not tell what was deleted meanwhile. Such kinds are suspect until an audit, which
compares keys with a fresh listing. Nothing may be written before every kind has been audited once.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from igw_api.objects import Key
from igw_api.wire import MANAGED_BY, MANAGED_BY_LABEL
from igw_operator.controller.resources import Resource, Whose

Body = dict[str, Any]
Listing = Mapping[Key, str]  # each object's uid

_IDENTITY = ("name", "namespace", "uid", "resourceVersion", "labels")


@dataclass(frozen=True, slots=True)
class View:
    """All objects at one moment. Bodies are never changed in place."""

    objects: Mapping[Resource, Mapping[Key, Body]] = field(default_factory=dict)

    def of(self, resource: Resource) -> Mapping[Key, Body]:
        """All objects of one kind."""
        return self.objects.get(resource, {})

    def get(self, resource: Resource, key: Key) -> Body | None:
        """One object, if it is known."""
        return self.of(resource).get(key)


@dataclass(slots=True)
class Store:
    """Objects by resource and key. `changed` is called after every change that somebody may have to act on."""

    changed: Callable[[], None]
    suspect: set[Resource] = field(default_factory=set)
    _objects: dict[Resource, dict[Key, Body]] = field(default_factory=lambda: defaultdict(dict), init=False)

    def get(self, resource: Resource, key: Key) -> Body | None:
        """One object, if it is known."""
        return self._objects[resource].get(key)

    def put(self, resource: Resource, body: Mapping[str, Any], *, listed: bool = False) -> None:
        """Take the object's newest version; an older one is ignored. `listed`: it comes from a listing."""
        new, key = trimmed(resource, body), key_of(body)
        old = self._objects[resource].get(key)
        if listed and old is not None:
            self.suspect.add(resource)
        if old is not None and _is_older(new, old):
            return
        self._objects[resource][key] = new
        if old is None or _without_version(old) != _without_version(new):
            self.changed()

    def drop(self, resource: Resource, key: Key, uid: str | None) -> None:
        """Forget the object. One of the same name that came after it stays."""
        known = self._objects[resource].get(key)
        if known is not None and known["metadata"].get("uid") == uid:
            del self._objects[resource][key]
            self.changed()

    def listing(self, resource: Resource) -> Listing:
        """What is known of a kind, to be compared after a fresh listing."""
        return {key: body["metadata"].get("uid", "") for key, body in self._objects[resource].items()}

    def audit(self, resource: Resource, before: Listing, found: Listing) -> frozenset[Key]:
        """Drop what was known `before` the listing `found` and is not in it. Returns what is not known yet."""
        for key, uid in before.items():
            if found.get(key) != uid:
                self.drop(resource, key, uid)
        missing = frozenset(key for key in found if key not in self._objects[resource])
        if not missing:
            self.suspect.discard(resource)
        return missing

    def forget(self, resource: Resource) -> None:
        """The kind does not exist any more."""
        if self._objects.pop(resource, None):
            self.changed()

    def view(self) -> "View":
        """All objects as they are now; safe to read in another thread."""
        return View({resource: dict(objects) for resource, objects in self._objects.items()})


def key_of(body: Mapping[str, Any]) -> Key:
    """Namespace and name; the namespace of cluster-scoped objects is empty."""
    meta = body["metadata"]
    return Key(meta.get("namespace", ""), meta["name"])


def is_ours(body: Mapping[str, Any]) -> bool:
    """Whether the object has our label."""
    return (body["metadata"].get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY


def trimmed(resource: Resource, body: Mapping[str, Any]) -> Body:
    """What is worth keeping. Of others' Services only that they are there."""
    meta = body["metadata"]
    if resource.whose is Whose.BOTH and resource.kind == "Service" and not is_ours(body):
        return {"metadata": {name: meta[name] for name in _IDENTITY if name in meta}}
    kept = {name: value for name, value in meta.items() if name != "managedFields"}
    if "annotations" in kept:
        kept["annotations"] = _without_last_applied(kept["annotations"])
    return {**body, "metadata": kept}


def _without_last_applied(annotations: Mapping[str, str]) -> Mapping[str, str]:
    # kubectl's copy of the whole object.
    return {
        name: value for name, value in annotations.items() if name != "kubectl.kubernetes.io/last-applied-configuration"
    }


def _is_older(new: Body, old: Body) -> bool:
    one, other = (body["metadata"].get("resourceVersion", "") for body in (new, old))
    # Since Kubernetes 1.35 resource versions may be compared as numbers; elsewhere they are so in practice.
    return bool(one.isdecimal() and other.isdecimal() and int(one) < int(other))


def _without_version(body: Body) -> Body:
    return {**body, "metadata": {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}}
