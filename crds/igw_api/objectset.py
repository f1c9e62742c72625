"""All accepted objects at one moment, as a value: grouped by type, merged, and written as one file.

The operator collects it from manifests, writes it with `dump`, and the picker reads it back with `load`. No YAML, no
API versions, no file access here.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from igw_api.objects import (
    AnyObject,
    Gateway,
    GatewayClass,
    Key,
    Lead,
    Member,
    Model,
    Objective,
    Policy,
    Pool,
    Rewrite,
    Route,
    Secret,
    Service,
)

FORMAT_VERSION: Final = 1


class NotADump(ValueError):
    """The data was not written by `dump`, or by a version of it that this program does not know."""


@dataclass(frozen=True, slots=True)
class ObjectSet:
    """Objects by type and key. Each mapping is in key order, so that equal sets are equal when written.

    `leads` is by the proxy's name of a route. A route that is not in it leads to the pool of its name.
    """

    pools: Mapping[Key, Pool] = field(default_factory=dict)
    models: Mapping[Key, Model] = field(default_factory=dict)
    objectives: Mapping[Key, Objective] = field(default_factory=dict)
    rewrites: Mapping[Key, Rewrite] = field(default_factory=dict)
    policies: Mapping[Key, Policy] = field(default_factory=dict)
    members: Mapping[Key, Member] = field(default_factory=dict)
    services: Mapping[Key, Service] = field(default_factory=dict)
    gateway_classes: Mapping[Key, GatewayClass] = field(default_factory=dict)
    gateways: Mapping[Key, Gateway] = field(default_factory=dict)
    routes: Mapping[Key, Route] = field(default_factory=dict)
    secrets: Mapping[Key, Secret] = field(default_factory=dict)
    leads: Mapping[str, Lead] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: Iterable[AnyObject], leads: Mapping[str, Lead] | None = None) -> "ObjectSet":
        """The set of `objects`. Of two with one type and key the later stays."""
        groups: dict[str, dict[Key, Any]] = {name: {} for name in _GROUPS.values()}
        for one in objects:
            groups[_GROUPS[type(one)]][one.key] = one
        return cls(
            **{name: dict(sorted(group.items())) for name, group in groups.items()},
            leads=dict(sorted((leads or {}).items())),
        )

    def merge(self, other: "ObjectSet") -> "ObjectSet":
        """Both sets' objects. Where both have one of the same type and key, `other`'s stays."""
        return ObjectSet.of([*self.objects(), *other.objects()], {**self.leads, **other.leads})

    def objects(self) -> list[AnyObject]:
        """All objects, type by type, in key order."""
        return [one for name in _GROUPS.values() for one in getattr(self, name).values()]


_GROUPS: Final[Mapping[type[AnyObject], str]] = {
    Pool: "pools",
    Model: "models",
    Objective: "objectives",
    Rewrite: "rewrites",
    Policy: "policies",
    Member: "members",
    Service: "services",
    GatewayClass: "gateway_classes",
    Gateway: "gateways",
    Route: "routes",
    Secret: "secrets",
}
# Secrets stay in memory.
_WRITTEN: Final = tuple(name for name in _GROUPS.values() if name != "secrets")


@dataclass(frozen=True, slots=True)
class _File:
    """The file's shape: lists, since JSON has no keys made of two parts."""

    version: int
    pools: tuple[Pool, ...]
    models: tuple[Model, ...]
    objectives: tuple[Objective, ...]
    rewrites: tuple[Rewrite, ...]
    policies: tuple[Policy, ...]
    members: tuple[Member, ...]
    services: tuple[Service, ...]
    gateway_classes: tuple[GatewayClass, ...]
    gateways: tuple[Gateway, ...]
    routes: tuple[Route, ...]
    leads: dict[str, Lead] = field(default_factory=dict)

    def objects(self) -> list[AnyObject]:
        return [one for name in _WRITTEN for one in getattr(self, name)]


_FILE: Final = TypeAdapter(_File)


def dump(objects: ObjectSet) -> bytes:
    """The set as JSON, without its secrets. Equal sets give equal bytes, whatever order they were collected in."""
    groups = {name: [_plain(one) for one in getattr(objects, name).values()] for name in _WRITTEN}
    written = {"version": FORMAT_VERSION, **groups, "leads": _plain(objects.leads)}
    return json.dumps(written, sort_keys=True, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def load(data: bytes) -> ObjectSet:
    """The set that `dump` wrote. Raises NotADump for anything else."""
    try:
        file = _FILE.validate_json(data)
    except ValidationError as error:
        raise NotADump(f"not a dump of objects: {error.errors()[0]['msg']}") from error
    if file.version != FORMAT_VERSION:
        raise NotADump(f"objects are in format {file.version}; this program reads {FORMAT_VERSION}")
    return ObjectSet.of(file.objects(), file.leads)
