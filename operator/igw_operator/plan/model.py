"""The plan: what a gateway shall do, in no proxy's words. Values only.

`plan.build` makes it, the renderers spell it. Times are in seconds, sizes in bytes. The defaults of resilience live
here, so that every renderer spells the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from igw_api.objects import LONGEST_WAIT, FailureMode, Key, RouteMatch
from igw_api.resilience import PassiveHealth, Retry
from igw_api.standby import Provider


@dataclass(frozen=True, slots=True)
class Resilience:
    """How a cluster's endpoints are treated."""

    connect_timeout: float = 1.0
    retry: Retry = field(default_factory=Retry)
    retry_pause: tuple[float, float] = (0.025, 0.25)  # a dead host is left at once; pauses only spread a burst
    passive_health: PassiveHealth = field(default_factory=PassiveHealth)
    # LLM requests live for minutes: Envoy's default of 1024 would cap the gateway.
    max_requests: int = 65536
    # Servers behind uvicorn close a connection that was idle for 5 s; leaving first avoids sending into the close.
    upstream_idle: float = 4.0
    # With no healthy endpoint left, trying all of them beats refusing; with one left, it gets the requests.
    panic_percent: float = 1.0


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP's own: a dead peer is found within two minutes, however silent the stream may rightly be."""

    probes: int = 3
    idle: int = 60
    interval: int = 20


@dataclass(frozen=True, slots=True)
class Cluster:
    """Endpoints that are interchangeable to the proxy.

    `placed`: it obeys the picker. `only_placed`: it does nothing else, so that a request without a placement is refused
    and not sent round robin.
    """

    name: str
    endpoints: tuple[str, ...]  # "ip:port", sorted
    placed: bool
    only_placed: bool = False
    http2: bool = False
    resilience: Resilience = field(default_factory=Resilience)


@dataclass(frozen=True, slots=True)
class Site:
    """A listener that pools are attached to; one picker can serve it.

    `pools`: the default first, that is, the one that serves every model, else the oldest; then by age. A request is
    the default's unless the picker finds its model in another.
    """

    gateway: Key
    listener: str
    port: int
    pools: tuple[Key, ...]

    @property
    def shared(self) -> bool:
        """Whether the model decides which pool a request is for."""
        return len(self.pools) > 1


@dataclass(frozen=True, slots=True)
class ProviderCluster:
    """A service beyond this gateway, under a name of our own. `authorities`: certificates; None: the system's."""

    name: str
    provider: Provider
    credential: Key | None  # the Secret with its Authorization header
    authorities: str | None = None
    connect_timeout: float = 5.0  # by way of the internet, with TLS
    idle: float = 30.0
    max_requests: int = 65536


@dataclass(frozen=True, slots=True)
class Overflow:
    """Where the picker may lead a request that its pool cannot take, by naming `key`: a pool or a provider."""

    key: str
    name: str
    pool: Key | None = None
    provider: ProviderCluster | None = None

    @property
    def cluster(self) -> str:
        """The name of its cluster."""
        return self.key if self.provider is not None else f"pool/{self.key}"


@dataclass(frozen=True, slots=True)
class Placement:
    """The picker is asked where each request of `pool` goes.

    `site`: it is asked first which of the site's pools a request is for; `pool` is its default.
    """

    pool: Key
    failure_mode: FailureMode
    first_byte: bool  # it also sees the first response chunk, for the exact time to the first token
    site: Site | None = None
    overflows: tuple[Overflow, ...] = ()  # of all pools that a request on this route may be for
    timed: bool = False  # the picker may bound the time to a response's headers
    limited: bool = False  # the picker tells what is left of an API key's limits

    @property
    def heeded(self) -> bool:
        """Whether the answer may lead to another route, or set headers that the proxy heeds."""
        return self.site is not None or bool(self.overflows) or self.timed


@dataclass(frozen=True, slots=True)
class Guard:
    """Only requests with a token of one of these Secrets pass. `digests`: client and SHA-256 of each token, sorted.

    `digests` is empty where a proxy of somebody else's reads the Secrets, and where there are none: then nobody passes.
    """

    secrets: tuple[Key, ...]
    digests: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Guards:
    """Who needs a token: pools, and Gateways for all that leads to no pool with tokens of its own."""

    pools: Mapping[Key, Guard] = field(default_factory=dict)
    gateways: Mapping[Key, Guard] = field(default_factory=dict)

    def of(self, gateway: Key, pool: Key | None) -> Guard | None:
        """What a request on a Gateway needs that is for a pool, or for something else. None: nothing."""
        own = self.pools.get(pool) if pool is not None else None
        return own or self.gateways.get(gateway)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The proxy answers by itself, with an error that clients can parse."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Destination:
    """One share of a rule's requests: to a cluster, by placement or round robin, or to a refusal."""

    to: str | Refusal  # a cluster's name, or the answer
    weight: int = 1
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class PlannedRoute:
    """One match and where it leads. `destinations` is never empty and has only positive weights.

    `request_timeout` None: none. `try_timeout` bounds the response headers of one try. `chosen`: only for requests that
    the picker has found to be that pool's.
    """

    owner: Key  # the HTTPRoute, or the pool that asked for exposure
    match: RouteMatch
    destinations: tuple[Destination, ...]
    request_timeout: float | None = None
    try_timeout: float | None = None
    chosen: Key | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The routes of one host name, best first. `*`: every host that has no better entry."""

    hostname: str
    routes: tuple[PlannedRoute, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A Secret with a key and its certificates. `digest` tells two contents apart."""

    secret: Key
    digest: str


@dataclass(frozen=True, slots=True)
class Terminated:
    """TLS ends here for clients that ask for `hostname` (None: any other, or none), with one of these certificates."""

    hostname: str | None
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class PlannedListener:
    """A port of a Gateway. Listeners of one Gateway that share a port are one of these. `tls` empty: plain HTTP."""

    gateway: Key
    names: tuple[str, ...]
    port: int
    hosts: tuple[Host, ...]
    tls: tuple[Terminated, ...] = ()

    @property
    def label(self) -> str:
        """`gateway/listener`, for people."""
        return f"{self.gateway.name}/{'+'.join(self.names)}"


@dataclass(frozen=True, slots=True)
class PickerRules:
    """How long the proxy waits for the picker, and when it stops asking."""

    # More than any queue may hold a request, whatever its policy says: to derive it from the policies would drain the
    # listener with each change. A frozen picker is found by checks and pings, long before.
    message_timeout: float = LONGEST_WAIT + 5.0
    first_byte_timeout: float = 1.0  # answered at once; past it the response goes on alone
    connect_timeout: float = 0.25
    # A dead or frozen picker is left after two failed checks, and used again after one good one.
    check_interval: float = 0.5
    check_timeout: float = 0.3
    unhealthy_checks: int = 2
    healthy_checks: int = 1
    # Checks keep new requests away from a frozen picker; pings free those that wait for it already.
    ping_interval: float = 1.0
    ping_timeout: float = 2.0
    max_streams: int = 1_000_000  # every request in flight holds one
    # The largest body that is placed; the proxy holds each until it has been. Images and long documents fit.
    max_body_bytes: int = 32 * 2**20


@dataclass(frozen=True, slots=True)
class ClientRules:
    """What one client may take of the proxy: bounds that only floods reach, and broken clients."""

    streams: int = 1024  # requests at once on one HTTP/2 connection
    idle: float = 300.0  # a connection without requests is closed then
    headers_timeout: float = 30.0  # for a request's headers to come in
    body_timeout: float = 600.0  # for all of it: 32 MiB at half a megabit a second


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """All of it. Two plans that are equal need no change of the proxy."""

    listeners: tuple[PlannedListener, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    sites: tuple[Site, ...] = ()
    providers: tuple[ProviderCluster, ...] = ()
    standbys: frozenset[str] = frozenset()  # the keys that pickers may name
    guards: Guards = field(default_factory=Guards)
    picker: PickerRules = field(default_factory=PickerRules)
    clients: ClientRules = field(default_factory=ClientRules)
    keepalive: Keepalive = field(default_factory=Keepalive)
    # A silent stream may be a full engine queue or a long unary completion; dead peers show by TCP keepalive.
    idle_timeout: float = 3600.0
    # A request body up to this size can be sent again, and reaches the picker whole.
    max_body_kept: int = 4 * 2**20

    @property
    def endpoints(self) -> int:
        """How many endpoints all clusters have together."""
        return sum(len(cluster.endpoints) for cluster in self.clusters)


@dataclass(frozen=True, slots=True)
class Condition:
    """What became of one object: the standard condition types and reasons of the Gateway API.

    `status` False on type `Accepted` means that the object has no effect. `parent`: the Gateway that it is about.
    """

    kind: str
    key: Key
    type: str
    status: bool
    reason: str
    message: str
    parent: Key | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.reason}: {self.message}"
