"""The internal model: what every version of every kind converts to. Values only.

The picker and the operator know nothing of API versions: they read these. `created` orders objects where the oldest
wins (seconds since the epoch; 0.0 where the source has no timestamps, as for files, so that the name breaks the tie).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Key(NamedTuple):
    """Namespace and name: an object's identity within its kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class FailureMode(StrEnum):
    """What the proxy does when the picker does not answer: place by round robin, or refuse."""

    OPEN = "FailOpen"
    CLOSE = "FailClose"


@dataclass(frozen=True, slots=True)
class AttachTo:
    """The `attach-to` annotation: the listener of a Gateway that shall lead to the pool."""

    gateway: Key
    port: int


@dataclass(frozen=True, slots=True)
class Pool:
    """An InferencePool of any version. An endpoint of it is one (member, target port)."""

    key: Key
    selector: Mapping[str, str]
    target_ports: tuple[int, ...]
    picker: str | None = None  # name of the picker's Service; None: the gateway's default
    picker_port: int = 9002
    failure_mode: FailureMode = FailureMode.OPEN
    app_protocol: str = "http"  # or "kubernetes.io/h2c"
    attach_to: AttachTo | None = None
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """One way to serve a model: the name the engine gets, and its share of the requests."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class Model:
    """A name that clients ask for, in one pool. From InferenceModel.

    `priority` comes from criticality: Critical 2, Standard 0, Sheddable -1. No targets: the name is passed on.
    """

    key: Key
    pool: Key
    name: str
    priority: int = 0
    targets: tuple[Target, ...] = ()
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """An InferenceObjective: requests that name it (by object name) get its priority."""

    key: Key
    pool: Key
    priority: int = 0
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class RewriteRule:
    """`models` empty: every model. Exact rules go before generic ones."""

    models: frozenset[str]
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """An InferenceModelRewrite: rules in order; the oldest object wins."""

    key: Key
    pool: Key
    rules: tuple[RewriteRule, ...]
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Member:
    """One process that serves engines' ports: a Pod, or an entry of an EndpointList.

    `port` None: the pool's target ports. `ready` False: known, but must not be chosen.
    """

    key: Key
    address: str  # an IP address
    port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Service:
    """A Service that plain routes may name: selector, and port number to target port."""

    key: Key
    selector: Mapping[str, str]
    ports: Mapping[int, int]


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every pair of `selector` is among `labels`. An empty selector selects nothing, as in a Service."""
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())


def join_host_port(host: str, port: int) -> str:
    """`ip:port`, with brackets around IPv6: the form that headers and Envoy use."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses(pool: Pool, member: Member) -> tuple[str, ...]:
    """The `ip:port` of each endpoint that `member` gives to `pool`. Not selected: none."""
    if not selects(pool.selector, member.labels):
        return ()
    ports = pool.target_ports if member.port is None else (member.port,)
    return tuple(join_host_port(member.address, port) for port in ports)
