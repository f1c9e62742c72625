"""From a request to a placement: read it, resolve its model, find the candidates, pick, and follow it to its end.

Pure but for the state it is given (datastore, ledgers, prefix index): `now` and `rng` are arguments. Called by
`conversation`, on the event loop, in one step: pick and reserve happen before anything else runs.
"""

import logging
import random
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from igw_api.split import PrefillFailure
from igw_api.standby import Standby
from igw_extproc import openai
from igw_extproc.allowance import able, named, replaceable, shed, why_none
from igw_extproc.answers import Answers
from igw_extproc.asking import adapter, asked_of, model_name, rewritten
from igw_extproc.datastore import Datastore, PoolView, RouteView
from igw_extproc.domain import Ask
from igw_extproc.errors import NoEndpoints
from igw_extproc.flight import Flight
from igw_extproc.health import Health
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.messages import Arrived, Placement
from igw_extproc.metering import Charge
from igw_extproc.request_headers import RequestHeaders
from igw_extproc.scheduling.framework import Decision, Scheduler
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_extproc.scheduling.shadow import Shadow, Shadows
from igw_extproc.scheduling.split import SplitScheduler, SplitStatistics, prefill_headers
from igw_extproc.stickiness import KEEPS_RESPONSES, Homes, Sticky, named_in, with_id

log = logging.getLogger(__name__)

_CURIOUS_OF: Final = 8


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
    members: frozenset[Ledger]  # the same
    scheduler: Scheduler | SplitScheduler


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
    charge: Charge | None = None  # what it has taken of limits


class Director:
    """Places requests. `flights` holds the open ones by lease id."""

    def __init__(
        self,
        datastore: Datastore,
        ledgers: Ledgers,
        index: PrefixIndex,
        rng: random.Random,
        secret: random.Random | None = None,
        health: Health | None = None,
    ) -> None:
        """`secret`: chance that nobody can predict; by default the system's. `health`: by default tells nobody."""
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
        self._expectant = 0  # responses, no streams, of which something was expected
        self._homes = Homes(secret if secret is not None else random.SystemRandom())
        self.flights: dict[str, Flight] = {}
        self.health = health if health is not None else Health(_nobody, _nobody)

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
            ledgers = self._ledgers.select(endpoint.address for endpoint in view.endpoints)
            scheduler = self._scheduler(view, ledgers, known.scheduler if known is not None else None)
            self._serving[name] = _Serving(view, ledgers, frozenset(ledgers), scheduler)
        self.health.serve((one.view.passive_health, one.ledgers) for one in self._serving.values())
        self._answers.keep(self._serving)
        shadowed = (view for view in self._datastore.views.values() if view.shadow is not None)
        self.shadows.keep({view.name: {endpoint.address for endpoint in view.endpoints} for view in shadowed})

    def _scheduler(
        self, view: PoolView, ledgers: tuple[Ledger, ...], known: Scheduler | SplitScheduler | None
    ) -> Scheduler | SplitScheduler:
        """The one that is known goes on by the view's policy, if it is of that kind."""
        if view.split is not None:
            split = known if isinstance(known, SplitScheduler) else SplitScheduler(view.split, self._index)
            split.configure(view.split)
            split.doubts, split.roles.gpus = self._ledgers.doubts, self._ledgers.gpus
            split.serve(ledgers)
            return split
        single = known if isinstance(known, Scheduler) else Scheduler(POLICIES[view.policy], self._index)
        single.policy = POLICIES[view.policy]
        single.onlooker = self._shadow(view)
        single.doubts = self._ledgers.doubts
        return single

    def place(self, request: Arrived, now: float) -> Placed:
        """Decide where `request` goes and reserve its share there. Raises RoutingError and Unseen."""
        return self.fulfil(self.read(request), now)

    def read(self, request: Arrived) -> Wish:
        """What `request` asks for, and who may serve it now. Raises RoutingError, for sheddable ones Saturated."""
        header = RequestHeaders(request)
        route = self._datastore.route(header.route)
        reading = openai.read(header.path, header.content_type, request.body, request.complete)
        previous = reading.previous or named_in(header.path) or ""
        serving = self._pool(route, reading.model or header.model or None, previous)
        view = serving.view
        asked = model_name(reading, header, view, request.complete)
        resolved = view.resolve(asked, header.rewrite, header.objective, self._rng)
        allowed = self._allowed(serving, request.subset, previous)
        body = rewritten(reading, asked, resolved.target)
        unnamed = (body or request.body) if reading.keeps and request.complete else None
        session = header.session or reading.session
        key = self._homes.sessions.key(view.name, session) if session else None
        # Only names of objects become labels: what clients make up has no end.
        model = asked if asked is not None and asked in view.named else ""
        expected = self._answers.expected(view.name, model)
        ask = asked_of(reading, resolved, adapter(resolved, allowed), serving.scheduler, len(request.body), expected)
        allowed = able(serving.scheduler, view.name, allowed, ask)
        names = (resolved.target, asked) if body is not None and resolved.target and asked else None
        if ask.priority < 0 and allowed:
            shed(allowed)
        pool = view.name if route.announce else None
        return Wish(serving, request.subset, allowed, ask, model, body, names, pool, unnamed, previous, key)

    @property
    def pools(self) -> Collection[str]:
        """The names of all pools."""
        return self._serving.keys()

    def chains(self) -> dict[str, tuple[Standby, ...]]:
        """The standbys of pools that have some, by the pool's name."""
        return {name: one.view.standbys for name, one in self._serving.items() if one.view.standbys}

    def fulfil(self, wish: Wish, now: float) -> Placed:
        """Pick among those allowed and reserve the request's share there. Raises RoutingError and Unseen."""
        return self.answer(wish, self.reserve(wish, now), now)

    def reserve(self, wish: Wish, now: float, again: bool = False) -> Flight:
        """The first half of `fulfil`: the flight, of which nobody has been told. Raises RoutingError and Unseen.

        `again`: the request had a place before.
        """
        ask = wish.ask
        if wish.session is not None:
            ask = ask._replace(stay=self._homes.sessions.find(wish.session, now))
        # Nothing may fail after the pick: what it reserves is given back by the flight alone.
        decision = wish.serving.scheduler.pick(wish.allowed, ask, now, self._rng, again=again)
        view = wish.serving.view
        if decision is None:
            instead = Placement((), "", wish.body, wish.names, wish.announced)
            raise Unseen(view.name, wish.model, instead) if view.opens_unseen else why_none(view, wish.subset)
        return self._fly(view, wish.model, decision, now)

    def answer(self, wish: Wish, flight: Flight, now: float) -> Placed:
        """The second half: what to tell the proxy."""
        decision, serving = flight.decision, wish.serving
        destinations = tuple([ledger.endpoint.address for ledger in decision.order])
        body = wish.body if wish.unnamed is None else self._with_id(wish.unnamed, wish.body, flight)
        told = prefill_headers(serving.view.split, decision)
        placement = Placement(destinations, flight.lease_id, body, wish.names, wish.announced, told)
        if wish.charge is not None:
            flight.charge, placement = wish.charge, placement._replace(shown=wish.charge.told(now))
        if not wish.previous and wish.session is None:
            return Placed(placement, flight)
        ask = wish.ask._replace(stay=decision.lease.ask.stay)
        sticks = self._homes.stuck(wish.previous, serving.ledgers, wish.session, ask, destinations[0], now)
        return Placed(placement, flight, sticks)

    def withdraw(self, flight: Flight, now: float) -> None:
        """Nobody was told of it: it goes nowhere, and nothing is learnt from it."""
        if self.flights.pop(flight.lease_id, None) is not None:
            if flight.watch is not None:
                self.health.ended(flight.watch)
            flight.withdrawn(now)

    def extra(self, wish: Wish, flight: Flight, ledger: Ledger) -> int | None:
        """Prompt tokens that `ledger`, of the same pool, would compute and the place of `flight` would not.

        None: it may not go there.
        """
        if wish.previous or ledger in self.health.out:
            return None  # a conversation stays where it was kept
        instead = replaceable(wish.serving.scheduler, flight.places, wish.ask, ledger)
        if instead is None:
            return None
        listed = wish.subset is None or ledger.endpoint.address in (named(wish.subset, (ledger,)) or ())
        if instead is flight.place and not listed:
            return None
        cached = self._index.match(wish.ask.prefix)
        return cached.get(instead.slot, 0) - cached.get(ledger.slot, 0)

    def between(self, wish: Wish, flight: Flight, ledger: Ledger, now: float) -> Flight:
        """The flight anew, after a choice between `ledger` and the one that it would replace (`extra`)."""
        place, scheduler = flight.place, wish.serving.scheduler
        instead = replaceable(scheduler, flight.places, wish.ask, ledger)
        self.withdraw(flight, now)
        if not isinstance(scheduler, SplitScheduler):
            return self.reserve(wish._replace(allowed=[ledger, place]), now, again=True)
        others = [one for one in flight.places[1:] if one is not instead]
        if instead is place:
            allowed, computing = [ledger, place], others
        else:
            allowed, computing = [place], [ledger, *flight.places[1:]]
        decision = scheduler.pick(allowed, wish.ask, now, self._rng, computing=computing)
        assert decision is not None, "who was chosen once may be chosen again"
        return self._fly(wish.serving.view, wish.model, decision, now)

    def renewed(self, wish: Wish) -> Wish:
        """The same request, with who may serve it now. Raises NoEndpoints where its pool is gone."""
        serving = self._serving.get(wish.serving.view.name)
        if serving is None:
            raise NoEndpoints("The pool of this request is gone.")
        allowed = self._allowed(serving, wish.subset, wish.previous)
        return wish._replace(serving=serving, allowed=able(serving.scheduler, serving.view.name, allowed, wish.ask))

    def moved(self, flight: Flight, address: str) -> None:
        """A retry took it there: its response is kept there too."""
        if flight.response_id:
            self._homes.responses.moved(flight.response_id, address)

    def view(self, pool: str) -> PoolView | None:
        """The pool of this name, if there is one."""
        serving = self._serving.get(pool)
        return serving.view if serving is not None else None

    def serves(self, pool: str, ledger: Ledger) -> bool:
        """Whether that endpoint is in that pool."""
        serving = self._serving.get(pool)
        return serving is not None and ledger in serving.members

    def open_to(self, pool: str) -> list[Ledger]:
        """Who may be chosen in that pool now, without any subset. None, if there is no such pool."""
        serving = self._serving.get(pool)
        if serving is None:
            return []
        allowed = self._candidates(serving, None)
        return [] if serving.scheduler.missing(allowed) is PrefillFailure.QUEUE else allowed

    def shuns(self, pool: str, ledger: Ledger) -> bool:
        """Whether that endpoint gets no requests of that pool now, since it fails them."""
        return ledger in self.health.out and ledger not in self.open_to(pool)

    def splits(self) -> Mapping[str, SplitStatistics]:
        """The numbers of pools that divide requests, by name."""
        schedulers = ((name, one.scheduler) for name, one in self._serving.items())
        return {name: one.statistics() for name, one in schedulers if isinstance(one, SplitScheduler)}

    def is_foreign(self, route: str | None) -> bool:
        """Whether requests on a route of this name are none of ours."""
        return self._datastore.is_foreign(route)

    def is_curious(self, lease: str | None) -> bool:
        """Whether what the engine found in its cache for this request shall be looked for in its response.

        One in eight of those that were expected to find something: it costs a message each. And all whose tokens are
        limited, since the engine's count of these is there, too.
        """
        flight = self.flights.get(lease or "")
        if flight is None:
            return False
        if flight.charge is not None and flight.charge.counts_tokens:
            return True
        if flight.decision.lease.matched_tokens <= 0:
            return False
        self._expectant += 1
        return self._expectant % _CURIOUS_OF == 0

    def end(self, flight: Flight, now: float) -> None:
        """The request is over. More than once is as good as once."""
        if self.flights.pop(flight.lease_id, None) is not None:
            tokens = flight.length(now)
            if tokens is not None:
                self._answers.ended(flight.pool, flight.model, tokens)
            if flight.watch is not None:
                self.health.ended(flight.watch)
            if flight.went_well(self.health.sees_responses):
                self.health.went_well(flight.place, flight.placed_at, now)
            flight.ended(now, tokens, self.health.sees_responses)

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
        allowed = self._candidates(serving, named(subset, serving.ledgers))
        home = self._homes.of(previous, allowed) if previous else None
        return [ledger for ledger in allowed if ledger.endpoint.address == home] if home is not None else allowed

    def _candidates(self, serving: _Serving, subset: Container[str] | None) -> list[Ledger]:
        """Who may be chosen, without those that are out if there are others."""
        allowed = serving.scheduler.candidates(serving.ledgers, subset)
        return self.health.keep(allowed) if self.health.out else allowed

    def _with_id(self, unnamed: bytes, body: bytes | None, flight: Flight) -> bytes | None:
        """The body with an id for its response, where engines take one; else as it is."""
        load = flight.first_choice.load
        if load is None or load.engine not in KEEPS_RESPONSES:
            return body
        flight.response_id = self._homes.responses.new(flight.first_choice.endpoint.address)
        return with_id(unnamed, flight.response_id)

    def _shadow(self, view: PoolView) -> Shadow | None:
        wanted = view.shadow
        if wanted is None:
            return None
        return self.shadows.of(view.name, POLICIES[view.policy], POLICIES[wanted.policy], wanted.sampling)

    def _fly(self, view: PoolView, model: str, decision: Decision, now: float) -> Flight:
        self._count += 1
        flight = Flight(f"{self._prefix}{self._count:x}", view.name, model, decision, self._ledgers, now)
        self.flights[flight.lease_id] = flight
        if self.health.limited:
            flight.watch = self.health.began(flight.place)
        if log.isEnabledFor(logging.DEBUG):
            order = ",".join(ledger.endpoint.address for ledger in decision.order)
            told = flight.lease_id, view.name, model, order, decision.first_token_s * 1e3
            log.debug("placed lease=%s pool=%s model=%s order=%s predicted_ms=%.1f", *told)
        return flight


def _nobody(_: object) -> None:
    """Nobody waits for a change."""
