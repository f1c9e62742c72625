"""From a request to a placement: read it, resolve its model, find the candidates, pick, and follow it to its end.

Pure but for the state it is given (datastore, ledgers, prefix index): `now` and `rng` are arguments. Called by
`conversation`, on the event loop, in one step: pick and reserve happen before anything else runs.
"""

import logging
import random
from dataclasses import dataclass
from typing import NamedTuple

from igw_api import wire
from igw_extproc import openai
from igw_extproc.answers import Answers, streamed_tokens
from igw_extproc.datastore import Datastore, PoolView, Resolved, RouteView
from igw_extproc.domain import Ask
from igw_extproc.errors import BadRequest, NoEndpoints, Saturated
from igw_extproc.flowcontrol.saturation import saturation
from igw_extproc.inflight import Ledger, Ledgers
from igw_extproc.messages import ROUTE_ATTRIBUTE, Arrived, Placement, Responded
from igw_extproc.scheduling.filters import candidates
from igw_extproc.scheduling.framework import Decision, Scheduler
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN, PrefixIndex, chain, seed
from igw_extproc.scheduling.shadow import Shadow, Shadows
from igw_extproc.stickiness import KEEPS_RESPONSES, Homes, Sticky, named_in, with_id

log = logging.getLogger(__name__)

_PRODUCES_NOTHING = frozenset({openai.Api.EMBEDDINGS, openai.Api.RERANK})


class Flight:
    """One placed request until it ends: its share of the load, and what it met on the way.

    Every method may be called at any time and in any order; `ended` closes it once and for all. The lease tells the
    prefix index what was learnt: the endpoint holds the prompt once it answers with a first byte, or without our
    seeing responses, once the request has ended.
    """

    __slots__ = (
        "_ledgers",
        "_step",
        "answer_tokens",
        "decision",
        "first_byte_at",
        "lease_id",
        "model",
        "moved",
        "open",
        "placed_at",
        "pool",
        "response_id",
        "status",
        "streams",
    )

    def __init__(self, lease_id: str, pool: str, model: str, decision: Decision, ledgers: Ledgers, now: float) -> None:
        self.lease_id = lease_id
        self.pool = pool
        self.model = model
        self.decision = decision
        self.placed_at = now
        self.response_id = ""  # what we called the response that it asks for
        self.first_byte_at: float | None = None
        self.status = 0  # 0: not seen
        self.streams = False  # whether the answer comes token by token
        self.answer_tokens = 0  # as the engine has it; 0: not seen
        self.moved = False
        self.open = True
        self._ledgers = ledgers
        self._step: float | None = None  # seconds for a token when the answer began

    @property
    def first_choice(self) -> Ledger:
        """The endpoint that was named first."""
        return self.decision.order[0]

    def responded(self, response: Responded) -> None:
        """An engine answered, perhaps another than the one named first: the load goes to the one that did."""
        if not self.open:
            return
        self.status = response.status
        served = self._ledgers.get(response.served) if response.served else None
        if served is not None and served is not self.first_choice:
            self.moved = True
            self.decision.lease.moved_to(served)

    def first_byte(self, now: float) -> float | None:
        """A byte of the response's body passed. Returns seconds since the pick, the first time only."""
        if not self.open or self.first_byte_at is not None:
            return None
        self.first_byte_at = now
        self._step = self.decision.lease.ledger.decode.step
        self.decision.lease.first_byte(now, succeeded=self.status < 400)
        return now - self.placed_at

    def length(self, now: float) -> float | None:
        """Tokens of the answer that ends now, as far as that can be told."""
        if self.answer_tokens:
            return self.answer_tokens
        step = self.decision.lease.ledger.decode.step
        if not self.streams or self.first_byte_at is None or not step or self.status >= 400:
            return None
        return streamed_tokens(now - self.first_byte_at, self._step, step)

    def ended(self, now: float) -> None:
        """The request is over."""
        self.open = False
        self.decision.lease.close(now, succeeded=self.status < 400)


class Unseen(Exception):
    """Nobody could tell us of the pool's endpoints: the proxy must choose. `placement` names none."""

    def __init__(self, name: str, model: str, placement: Placement) -> None:
        super().__init__(name)
        self.name = name
        self.model = model
        self.placement = placement


class Placed(NamedTuple):
    """A decision with all that its conversation and telemetry need."""

    placement: Placement
    flight: Flight
    sticks: tuple[Sticky, ...] = ()


@dataclass(frozen=True, slots=True)
class _Serving:
    """One pool ready for picks: what it is, its ledgers, and its scheduler, which outlives changes of the rest."""

    view: PoolView
    ledgers: tuple[Ledger, ...]
    scheduler: Scheduler


class Wish(NamedTuple):
    """A request that has been read: all that its placement needs, now or later. The prompt itself is not in it."""

    serving: _Serving
    subset: tuple[str, ...] | None
    allowed: list[Ledger]
    ask: Ask
    model: str  # for telemetry
    body: bytes | None  # only if it must change
    names: tuple[str, str] | None
    announced: str | None
    unnamed: bytes | None = None  # the body, if the response is to be given an id by which its maker is found
    previous: str = ""  # the response that it continues, or is about
    session: bytes | None = None
    streams: bool = False


class Director:
    """Places requests. `flights` holds the open ones by lease id."""

    def __init__(
        self,
        datastore: Datastore,
        ledgers: Ledgers,
        index: PrefixIndex,
        rng: random.Random,
        secret: random.Random | None = None,
    ) -> None:
        """`secret`: chance that nobody can predict; by default the system's."""
        self._datastore = datastore
        self._ledgers = ledgers
        self._index = index
        self._rng = rng
        # Lease ids of an earlier picker must not match ours: streams outlive a restart.
        self._prefix = f"{rng.getrandbits(32):08x}-"
        self._count = 0
        self._serving: dict[str, _Serving] = {}
        self.shadows = Shadows()
        self._answers = Answers()
        self._homes = Homes(secret if secret is not None else random.SystemRandom())
        self.flights: dict[str, Flight] = {}

    @property
    def knows_objects(self) -> bool:
        """Whether the datastore has been filled: until then nothing can be said of any request."""
        return self._datastore.synced

    def refresh(self) -> None:
        """Take over what the datastore and the table of ledgers hold now."""
        before = self._serving
        self._serving = {}
        for name, view in self._datastore.views.items():
            known = before.get(name)
            scheduler = known.scheduler if known is not None else Scheduler(POLICIES[view.policy], self._index)
            scheduler.policy = POLICIES[view.policy]
            scheduler.onlooker = self._shadow(view)
            ledgers = self._ledgers.select(endpoint.address for endpoint in view.endpoints)
            self._serving[name] = _Serving(view, ledgers, scheduler)
        self._answers.keep(self._serving)
        shadowed = (view for view in self._datastore.views.values() if view.shadow is not None)
        self.shadows.keep({view.name: {endpoint.address for endpoint in view.endpoints} for view in shadowed})

    def place(self, request: Arrived, now: float) -> Placed:
        """Decide where `request` goes and reserve its share there. Raises RoutingError and Unseen."""
        return self.fulfil(self.read(request), now)

    def read(self, request: Arrived) -> Wish:
        """What `request` asks for, and who may serve it now. Raises RoutingError."""
        header = _Headers(request)
        route = self._datastore.route(header.route)
        reading = openai.read(header.path, header.content_type, request.body, request.complete)
        previous = reading.previous or named_in(header.path) or ""
        serving = self._pool(route, reading.model or header.model or None, previous)
        view = serving.view
        asked = _model_name(reading, header, view, request.complete)
        resolved = view.resolve(asked, header.rewrite, header.objective, self._rng)
        allowed = self._allowed(serving, request.subset, previous)
        body = _rewritten(reading, asked, resolved.target)
        unnamed = (body or request.body) if reading.keeps and request.complete else None
        session = header.session or reading.session
        key = self._homes.sessions.key(view.name, session) if session else None
        # Only declared names become labels: what clients make up has no end.
        model = asked if asked is not None and asked in view.models else ""
        expected = self._answers.expected(view.name, model)
        ask = _ask(reading, resolved, _adapter(resolved, allowed), serving.scheduler, len(request.body), expected)
        names = (resolved.target, asked) if body is not None and resolved.target and asked else None
        pool = view.name if route.announce else None
        streams = reading.stream
        return Wish(serving, request.subset, allowed, ask, model, body, names, pool, unnamed, previous, key, streams)

    def fulfil(self, wish: Wish, now: float) -> Placed:
        """Pick among those allowed and reserve the request's share there. Raises RoutingError and Unseen."""
        if wish.ask.priority < 0 and wish.allowed and wish.serving.view.queue is None:
            _shed(wish.allowed)
        ask = wish.ask
        if wish.session is not None:
            ask = ask._replace(stay=self._homes.sessions.find(wish.session, now))
        # Nothing may fail after the pick: what it reserves is given back by the flight alone.
        decision = wish.serving.scheduler.pick(wish.allowed, ask, now, self._rng)
        view = wish.serving.view
        if decision is None:
            instead = Placement((), "", wish.body, wish.names, wish.announced)
            raise _why_none(view, wish.subset, instead, wish.model)
        flight = self._fly(view, wish.model, decision, now)
        flight.streams = wish.streams
        destinations = tuple(ledger.endpoint.address for ledger in decision.order)
        body = self._with_id(wish, flight)
        placement = Placement(destinations, flight.lease_id, body, wish.names, wish.announced)
        sticks = self._homes.stuck(wish.previous, wish.serving.ledgers, wish.session, ask, destinations[0], now)
        return Placed(placement, flight, sticks)

    def renewed(self, wish: Wish) -> Wish:
        """The same request, with who may serve it now. Raises NoEndpoints where its pool is gone."""
        serving = self._serving.get(wish.serving.view.name)
        if serving is None:
            raise NoEndpoints("The pool of this request is gone.")
        return wish._replace(serving=serving, allowed=self._allowed(serving, wish.subset, wish.previous))

    def moved(self, flight: Flight, address: str) -> None:
        """A retry took it there: its response is kept there too."""
        if flight.response_id:
            self._homes.responses.moved(flight.response_id, address)

    def view(self, pool: str) -> PoolView | None:
        """The pool of this name, if there is one."""
        serving = self._serving.get(pool)
        return serving.view if serving is not None else None

    def open_to(self, pool: str) -> list[Ledger]:
        """Who may be chosen in that pool now, without any subset. None, if there is no such pool."""
        serving = self._serving.get(pool)
        return candidates(serving.ledgers) if serving is not None else []

    def is_foreign(self, route: str | None) -> bool:
        """Whether requests on a route of this name are none of ours."""
        return self._datastore.is_foreign(route)

    def end(self, flight: Flight, now: float) -> None:
        """The request is over. More than once is as good as once."""
        if self.flights.pop(flight.lease_id, None) is not None:
            tokens = flight.length(now)
            if tokens is not None:
                self._answers.ended(flight.pool, flight.model, tokens)
            flight.ended(now)

    def _pool(self, route: RouteView, model: str | None, previous: str) -> _Serving:
        """The pool of the model. A path may name none, but a response: then the pool of the endpoint that made it."""
        if model is None and previous and len(route.pools) > 1:
            for view in route.pools:
                serving = self._serving[view.name]
                if self._homes.of(previous, serving.ledgers) is not None:
                    return serving
        return self._serving[route.pool_for(model).name]

    def _allowed(self, serving: _Serving, subset: tuple[str, ...] | None, previous: str) -> list[Ledger]:
        """Who may be chosen. A request about an earlier response belongs to who made that, if it may be chosen."""
        allowed = candidates(serving.ledgers, _named(subset, serving.ledgers))
        home = self._homes.of(previous, allowed) if previous else None
        return [ledger for ledger in allowed if ledger.endpoint.address == home] if home is not None else allowed

    def _with_id(self, wish: Wish, flight: Flight) -> bytes | None:
        """The body, if it must change, with an id for its response where engines take one."""
        load = flight.first_choice.load
        if wish.unnamed is None or load is None or load.engine not in KEEPS_RESPONSES:
            return wish.body
        flight.response_id = self._homes.responses.new(flight.first_choice.endpoint.address)
        return with_id(wish.unnamed, flight.response_id)

    def _shadow(self, view: PoolView) -> Shadow | None:
        wanted = view.shadow
        if wanted is None:
            return None
        return self.shadows.of(view.name, POLICIES[view.policy], POLICIES[wanted.policy], wanted.sampling)

    def _fly(self, view: PoolView, model: str, decision: Decision, now: float) -> Flight:
        self._count += 1
        flight = Flight(f"{self._prefix}{self._count:x}", view.name, model, decision, self._ledgers, now)
        self.flights[flight.lease_id] = flight
        if log.isEnabledFor(logging.DEBUG):
            order = ",".join(ledger.endpoint.address for ledger in decision.order)
            log.debug("placed lease=%s pool=%s model=%s order=%s", flight.lease_id, view.name, model, order)
        return flight


class _Headers:
    """The few headers that matter, from the headers message or, in the one-message mode, from attributes."""

    __slots__ = ("content_type", "model", "objective", "path", "rewrite", "route", "session")

    def __init__(self, request: Arrived) -> None:
        headers, attributes = request.headers, request.attributes
        self.route = attributes.get(ROUTE_ATTRIBUTE)
        if headers:
            self.path = headers.get(":path")
            self.content_type = headers.get("content-type")
            self.model = headers.get(wire.MODEL_HEADER)
            self.objective = headers.get(wire.OBJECTIVE_HEADER)
            self.rewrite = headers.get(wire.MODEL_REWRITE_HEADER)
            self.session = headers.get(wire.SESSION_HEADER)
        else:
            self.path = attributes.get("request.path")
            self.content_type = attributes.get(_CONTENT_TYPE)
            self.model = attributes.get(_MODEL)
            self.objective = attributes.get(_OBJECTIVE)
            self.rewrite = attributes.get(_REWRITE)
            self.session = attributes.get(_SESSION)


_CONTENT_TYPE = "request.headers['content-type']"
_MODEL = f"request.headers['{wire.MODEL_HEADER}']"
_OBJECTIVE = f"request.headers['{wire.OBJECTIVE_HEADER}']"
_REWRITE = f"request.headers['{wire.MODEL_REWRITE_HEADER}']"
_SESSION = f"request.headers['{wire.SESSION_HEADER}']"


def _shed(allowed: list[Ledger]) -> None:
    """Sheddable work is refused while the pool is full. Raises Saturated."""
    if saturation(allowed) >= 1.0:
        raise Saturated("All engines are busy, and this model's requests are sheddable. Try again later.")


def _model_name(reading: openai.Reading, header: _Headers, view: PoolView, complete: bool) -> str | None:
    """The model asked for: in the body, else in the header, else the pool's only one if the body cannot tell."""
    name = reading.model or header.model or None
    if name is None and reading.api is not openai.Api.OPAQUE:
        if complete:
            raise BadRequest("The body has no `model`. Name the model that shall answer.")
        return view.only_model
    return name


def _named(subset: tuple[str, ...] | None, ledgers: tuple[Ledger, ...]) -> set[str] | None:
    """The addresses that a subset hint means: a host without a port stands for all of its ports."""
    if subset is None:
        return None
    named = set(subset)
    hosts = {one.strip("[]") for one in named if one.count(":") != 1 and "]:" not in one}
    if hosts:
        addresses = (ledger.endpoint.address for ledger in ledgers)
        named.update(address for address in addresses if address.rpartition(":")[0].strip("[]") in hosts)
    return named


def _why_none(view: PoolView, subset: tuple[str, ...] | None, instead: Placement, model: str) -> NoEndpoints | Unseen:
    """`instead`: what to tell the proxy where it may choose itself."""
    if view.opens_unseen:
        return Unseen(view.name, model, instead)
    if not view.endpoints:
        return NoEndpoints(f"The pool {view.name} has no endpoints. Try again later.")
    if subset is not None:
        listed = f"None of the {len(subset)} endpoints allowed for this request"
        return NoEndpoints(f"{listed} is available in the pool {view.name}.")
    return NoEndpoints(f"None of the {len(view.endpoints)} endpoints of the pool {view.name} answers. Try again later.")


def _adapter(resolved: Resolved, allowed: list[Ledger]) -> str | None:
    """The adapter to have in place. Where no engine tells of adapters, another name is but a name."""
    if resolved.adapter is None:
        return None
    told = any(ledger.load is not None and ledger.load.max_adapters is not None for ledger in allowed)
    return resolved.adapter if told else None


def _ask(
    reading: openai.Reading,
    resolved: Resolved,
    adapter: str | None,
    scheduler: Scheduler,
    body_bytes: int,
    expected: int,
) -> Ask:
    text, target = reading.text, resolved.target or ""
    # An opaque or unreadable body still costs something: its size is the best guess.
    prompt = (len(text) or body_bytes) // BYTES_PER_TOKEN + 1
    produces = 0 if reading.api in _PRODUCES_NOTHING else expected
    output = produces if reading.max_tokens is None else min(produces, reading.max_tokens)
    prefix = chain(text, seed(target, reading.salt, adapter)) if text and scheduler.reads_prefixes else ()
    return Ask(target, prompt, output, prefix, adapter, resolved.priority)


def _rewritten(reading: openai.Reading, asked: str | None, target: str | None) -> bytes | None:
    """The body with the target's name. None: it stays, since it has that name, or we have no whole body to change."""
    if target is None or target == asked or reading.document is None:
        return None
    return openai.rewrite_model(reading.document, target)
