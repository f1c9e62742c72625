"""The internal model: what every version of every kind converts to. Values only.

The picker and the operator know nothing of API versions: they read these. `created` orders objects where the oldest
wins (seconds since the epoch; 0.0 where the source has no timestamps, as for files, so that the name breaks the tie).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from igw_api.limits import Limits
from igw_api.resilience import PassiveHealth, Retry
from igw_api.split import Split
from igw_api.standby import Standby
from igw_api.wire import ACTIVE_PORTS_ANNOTATION


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
    Targets that all weigh 0: the name is reserved, and requests for it are refused.
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


# Seconds that any queue may hold a request. Proxies are told to wait longer than that for the picker.
LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Queue:
    """How many requests may wait for a pool, and how long. Times in seconds.

    `max_size` 0: none do; they go to the engines' own queues.
    """

    max_size: int = 512
    wait_timeout: float = 10.0
    retry_period: float = 1.0


@dataclass(frozen=True, slots=True)
class Shadow:
    """A second scheduling policy that is compared with the one in force, on this share of the requests."""

    policy: str
    sampling: float = 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """How requests to `pools` are placed, beyond what the standard kinds can say; the oldest object wins."""

    key: Key
    pools: tuple[Key, ...]
    scheduling: str | None = None  # name of a scheduling policy; None: the picker's default
    created: float = 0.0
    queue: Queue | None = None  # None: the defaults of `Queue`
    shadow: Shadow | None = None
    split: Split | None = None  # None: one endpoint serves a whole request
    standbys: tuple[Standby, ...] = ()  # tried in order
    first_byte: float | None = None  # seconds that a stream may take to its first byte; None: any
    passive_health: PassiveHealth = field(default_factory=PassiveHealth)
    retry: Retry = field(default_factory=Retry)
    explains: bool = False  # decisions, to clients that ask
    limits: Limits | None = None  # None: there are none
    gateways: tuple[Key, ...] = ()  # whose requests need the tokens of `access` where their pools have none
    access: tuple[Key, ...] = ()  # Secrets with tokens, of which requests need one; none: everybody may


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


@dataclass(frozen=True, slots=True)
class GatewayClass:
    """Which controller serves the Gateways that name this class. Cluster-scoped: `key.namespace` is empty."""

    key: Key
    controller: str
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Listener:
    """One port of a Gateway. `hostname` None: every host; `*.` in front: every subdomain.

    `certificates`: Secrets with what it shows to clients; none: it speaks plain HTTP, or somebody else reads them.
    """

    name: str
    port: int
    hostname: str | None = None
    any_namespace: bool = False  # False: only routes of the Gateway's own namespace may attach
    certificates: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class Gateway:
    """The ports that clients reach. Listener names are unique; several listeners may share a port by hostname."""

    key: Key
    class_name: str
    listeners: tuple[Listener, ...]
    created: float = 0.0


class PathKind(StrEnum):
    """How a path is compared. A prefix matches whole segments: `/v1` matches `/v1/x` but not `/v10`."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A header or a query parameter that must have a value. Header names are in lower case. `regex`: a full match."""

    name: str
    value: str
    regex: bool = False


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All parts must hold. The default matches every request."""

    path: str = "/"
    path_kind: PathKind = PathKind.PREFIX
    method: str | None = None
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()


class BackendKind(StrEnum):
    """What a route may lead to."""

    SERVICE = "Service"
    POOL = "InferencePool"


@dataclass(frozen=True, slots=True)
class BackendRef:
    """Where a rule's requests go. `port` is the Service's port, always set for one; a pool ignores it."""

    kind: BackendKind
    key: Key
    port: int | None = None
    weight: int = 1  # 0: no requests


@dataclass(frozen=True, slots=True)
class RouteRule:
    """`matches` is never empty (any of them suffices). `backends` empty: the gateway answers 500.

    Timeouts are in seconds. None: the gateway's default; 0.0: none at all. `backend_timeout` bounds one try.
    """

    matches: tuple[RouteMatch, ...] = (RouteMatch(),)
    backends: tuple[BackendRef, ...] = ()
    request_timeout: float | None = None
    backend_timeout: float | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class RouteParent:
    """A Gateway that shall serve the route; by listener name or port where given, else on all its listeners."""

    gateway: Key
    section: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """An HTTPRoute. `hostnames` empty: those of the listener."""

    key: Key
    parents: tuple[RouteParent, ...]
    rules: tuple[RouteRule, ...]
    hostnames: tuple[str, ...] = ()
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Lead:
    """Where one route of the proxy may lead: `pools`, the default first. Derived by the operator, read by the picker.

    Several pools share a route when one port serves them all: the model in the body decides. `announce`: the answer
    must name the pool chosen, because the proxy routes once more by it.
    """

    pools: tuple[Key, ...]
    announce: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """What must be written nowhere: it is in no dump, and `repr` does not show it."""

    key: Key
    data: Mapping[str, str] = field(default_factory=dict, repr=False)


AnyObject = Pool | Model | Objective | Rewrite | Policy | Member | Service | GatewayClass | Gateway | Route | Secret


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every pair of `selector` is among `labels`. An empty selector selects nothing, as in a Service."""
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())


def join_host_port(host: str, port: int) -> str:
    """`ip:port`, with brackets around IPv6: the form that headers and Envoy use."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses(pool: Pool, member: Member) -> tuple[str, ...]:
    """The `ip:port` of each endpoint that `member` gives to `pool`. Not selected: none.

    The active-ports annotation, where present, leaves only the ports it lists; one that makes no sense leaves none.
    """
    if not selects(pool.selector, member.labels):
        return ()
    ports = pool.target_ports if member.port is None else (member.port,)
    active = member.annotations.get(ACTIVE_PORTS_ANNOTATION)
    if active is not None:
        listed = {text.strip() for text in active.split(",")}
        ports = tuple(port for port in ports if str(port) in listed)
    return tuple(join_host_port(member.address, port) for port in ports)
