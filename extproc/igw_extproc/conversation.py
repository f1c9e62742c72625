"""Joins the pieces for one gRPC stream: codec, exchange, director, telemetry. The only place that knows them all.

Driven by a transport through `transport.Conversation`, on the event loop, synchronously: a message that completes a
request is decoded, placed, reserved and answered before the next one is looked at, unless it has to wait its turn.
Faults of ours never cost the client its request: the stream ends with an error, and the proxy goes on by its own policy
(fail open).
"""

import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

from igw_api import wire
from igw_extproc import codec, history, openai
from igw_extproc.admission import Admission, Place
from igw_extproc.director import Director, Placed, Unseen
from igw_extproc.domain import Outcome
from igw_extproc.errors import RoutingError
from igw_extproc.explanation import in_a_line
from igw_extproc.flight import Flight
from igw_extproc.messages import Arrived, Chunk, Finish, Output, Passed, Placement, Reply, Responded
from igw_extproc.overflow import Diverted
from igw_extproc.request_headers import wants_explanation
from igw_extproc.scheduling.split import PairLease
from igw_extproc.stream import Exchange
from igw_extproc.telemetry import Telemetry
from igw_extproc.transport import Call, Conversation, GrpcStatus, Methods

log = logging.getLogger(__name__)

# An unknown model name is the client's text: it must not become a label, of which there is no end.
_NO_MODEL = ""
# As text: an enum's members hash in Python code, for every request.
_PREFILL_OUTCOMES = (wire.PREFILLED_REMOTELY, wire.PREFILLED_LOCALLY, wire.PREFILL_FAILED)
_PLACED, _PASSED = Outcome.PLACED.value, Outcome.PASSED.value
# More than any engine's usage object with all its details.
_USAGE_BYTES = 1024
# What a message costs us that waits to be read, besides its bytes.
_MESSAGE_BYTES = 64


class Picker:
    """What the picker serves, as a table of gRPC methods for any transport."""

    def __init__(
        self,
        director: Director,
        telemetry: Telemetry,
        clock: Callable[[], float],
        max_body_bytes: int,
        suspect: Callable[[str], None],
        ready: Callable[[], bool],
        admission: Admission,
    ) -> None:
        self.director = director
        self.admission = admission
        self.telemetry = telemetry
        self.history = history.History()
        self.clock = clock
        self.max_body_bytes = max_body_bytes
        self.suspect = suspect  # told an address that did not answer where it should have
        self.ready = ready

    def methods(self) -> Methods:
        """By path: the external processor, and health."""
        return {
            wire.EXT_PROC_METHOD: partial(Process, self),
            f"/{wire.HEALTH_SERVICE}/Check": partial(Health, self),
        }


class Process(Conversation):
    """One stream of ExternalProcessor/Process: a request's, or the first-byte filter's about one response."""

    __slots__ = (
        "_call",
        "_exchange",
        "_flight",
        "_later",
        "_later_bytes",
        "_picker",
        "_request",
        "_tail",
        "_usage",
        "_waits",
    )

    def __init__(self, picker: Picker, call: Call) -> None:
        self._picker = picker
        self._call = call
        self._exchange = Exchange(picker.max_body_bytes, picker.director.is_foreign, picker.director.is_curious)
        self._flight: Flight | None = None
        self._usage: openai.Usage | None = None
        self._request: tuple[str, float, bool] = ("", 0.0, False)  # its id, when it arrived, whether it asks why
        self._waits: Place | None = None
        self._later: list[bytes] | None = None  # what came while it waits: answers must keep the order of messages
        self._later_bytes = 0
        self._tail = b""  # of the response, where a usage object may have begun
        picker.telemetry.open_streams += 1

    def receive(self, message: bytes) -> None:
        if self._waits is not None:
            self._keep(message)
            return
        started = self._picker.clock()
        try:
            step = self._exchange.receive(codec.decode(message))
        except codec.MalformedMessage as error:
            self._fault("decode", GrpcStatus.INVALID_ARGUMENT, str(error))
            return
        except RoutingError as error:
            self._refuse(error)
            return
        notice = step.notice
        if isinstance(notice, Chunk):
            self._chunk(notice)
            self._send(self._priced(step.outputs, notice))
            return
        self._send(step.outputs)
        if isinstance(notice, Arrived):
            self._place(notice, started)
        elif isinstance(notice, Responded):
            self._responded(notice)
        elif isinstance(notice, Passed):
            self._picker.telemetry.requests[("", _NO_MODEL, _PASSED)] += 1

    def _keep(self, message: bytes) -> None:
        """For when it has been answered. Proxies send next to nothing before that."""
        self._later_bytes += len(message) + _MESSAGE_BYTES
        if self._later_bytes > self._picker.max_body_bytes:
            self._fault("decode", GrpcStatus.RESOURCE_EXHAUSTED, "too much comes before the answer")
            return
        if self._later is None:
            self._later = []
        self._later.append(message)

    def half_closed(self) -> None:
        self._call.finish()

    def ended(self) -> None:
        self._picker.telemetry.open_streams -= 1
        if self._flight is not None and not self._exchange.observer:
            self._end(self._flight)
        elif self._waits is not None:
            self._picker.admission.leave(self._waits, self._picker.clock())

    # What a request that has waited is told (`admission.Applicant`).

    @property
    def held(self) -> bytes | None:
        """The request's body, where only we have it."""
        return self._exchange.held

    def placed(self, placed: Placed, now: float) -> None:
        """It goes there."""
        if self._waits is not None:
            self._picker.telemetry.saw_wait(placed.flight.pool, now - self._waits.waiter.arrived_at)
        self._answer(lambda: self._fly(placed))

    def passed(self, unseen: Unseen) -> None:
        """The proxy chooses."""
        self._answer(lambda: self._pass(unseen))

    def diverted(self, diverted: Diverted) -> None:
        """A standby takes it."""
        self._answer(lambda: self._divert(diverted))

    def refused(self, error: RoutingError) -> None:
        """The client is told why not."""
        self._answer(lambda: self._refuse(error))

    def _place(self, request: Arrived, started: float) -> None:
        picker = self._picker
        if not picker.director.knows_objects:
            # To refuse would be wrong: the proxy may know endpoints that we have not heard of yet.
            self._fault("start", GrpcStatus.UNAVAILABLE, "no objects yet")
            return
        self._request = (request.request_id, started, wants_explanation(request))
        try:
            placed = picker.admission.admit(request, self, started)
        except RoutingError as error:
            self._refuse(error)
            return
        except Unseen as pool:
            self._pass(pool)
            return
        except Exception:
            log.exception("placement failed")
            self._fault("place", GrpcStatus.INTERNAL, "placement failed")
            return
        if isinstance(placed, Place):
            self._waits = placed
            return
        if isinstance(placed, Diverted):
            self._divert(placed)
            return
        self._fly(placed)
        picker.telemetry.placement.observe(picker.clock() - started)

    def _fly(self, placed: Placed) -> None:
        flight = self._flight = placed.flight
        self._send(self._exchange.place(self._remembered(placed)))
        told = self._picker.telemetry
        told.requests[(flight.pool, flight.model, _PLACED)] += 1
        told.placed[flight.first_choice.endpoint.address] += 1
        told.prefix_tokens[flight.pool] += flight.decision.cached_tokens
        for stuck in placed.sticks:
            told.sticky[(flight.pool, *stuck)] += 1

    def _remembered(self, placed: Placed) -> Placement:
        """The placement, with its explanation if that is wanted and allowed."""
        flight, placement = placed.flight, placed.placement
        flight.request_id, flight.arrived_at, asks = self._request
        self._picker.history.add(flight)
        if not asks:
            return placement
        view = self._picker.director.view(flight.pool)
        return placement._replace(explained=in_a_line(flight)) if view is not None and view.explains else placement

    def _divert(self, diverted: Diverted) -> None:
        self._flight = diverted.flight
        name, arrived_at, _ = self._request
        what = diverted.pool, diverted.model, diverted.standby, diverted.reason, diverted.flight
        self._picker.history.add(history.Diverted(name, arrived_at, *what))
        self._send(self._exchange.place(diverted.placement))
        told = self._picker.telemetry
        told.requests[(diverted.pool, diverted.model, Outcome.DIVERTED.value)] += 1
        if diverted.flight is not None:
            told.placed[diverted.flight.first_choice.endpoint.address] += 1
        log.info("diverted pool=%s standby=%s reason=%s", diverted.pool, diverted.standby, diverted.reason)

    def _pass(self, pool: Unseen) -> None:
        self._send(self._exchange.place(pool.placement))
        self._picker.telemetry.requests[(pool.name, pool.model, _PASSED)] += 1

    def _refuse(self, error: RoutingError) -> None:
        told = (("retry-after", str(error.retry_after)),) if error.retry_after is not None else ()
        self._send(self._exchange.refuse(error, (*told, *error.headers)))
        name, arrived_at, _ = self._request
        why = error.status, error.code, str(error)
        self._picker.history.add(history.Refused(name, arrived_at or self._picker.clock(), *why))
        self._picker.telemetry.requests[("", _NO_MODEL, error.outcome.value)] += 1
        log.info("refused status=%d outcome=%s", error.status, error.outcome.value)

    def _answer(self, answer: Callable[[], None]) -> None:
        """It has waited: answer, and then what came meanwhile. Others' turns are told in the same step."""
        self._waits = None
        try:
            answer()
        except Exception:
            log.exception("answer failed")
            self._fault("place", GrpcStatus.INTERNAL, "placement failed")
        later, self._later, self._later_bytes = self._later, None, 0
        for message in later or ():
            self.receive(message)

    def _responded(self, response: Responded) -> None:
        picker = self._picker
        if self._exchange.observer:
            picker.director.health.sees_responses = True
            self._flight = picker.director.flights.get(response.lease or "")
        flight = self._flight
        if flight is None:
            return
        flight.responded(response)
        if response.prefill is not None:
            self._prefilled(flight, response.prefill, response.status)
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self._proves(flight)
        elif response.whole and response.status < 400:
            self._first_byte(flight)
        address = flight.first_choice.endpoint.address
        # Not what the proxy names, unless it is one of ours: addresses become labels.
        picker.telemetry.responses[(flight.place.endpoint.address, f"{response.status // 100}xx")] += 1
        if flight.moved:
            picker.telemetry.moved[address] += 1
            picker.director.moved(flight, response.served or address)
        if flight.moved or response.status in (502, 503, 504):
            picker.suspect(address)

    def _prefilled(self, flight: Flight, outcome: str, status: int) -> None:
        """The sidecar told who computed the prompt."""
        picker = self._picker
        if outcome in _PREFILL_OUTCOMES:
            picker.telemetry.prefills[(flight.pool, outcome)] += 1
        now, lease = picker.clock(), flight.decision.lease
        prefiller = flight.prefilled(outcome == wire.PREFILLED_REMOTELY, now)
        # A request that is wrong itself fails everywhere: clients must not be able to turn prompts away from endpoints.
        blamed = outcome == wire.PREFILL_FAILED and not 400 <= status < 500
        if prefiller is None:
            return
        if blamed:
            picker.suspect(prefiller.endpoint.address)
            if isinstance(lease, PairLease):
                lease.blame(now)
        if picker.admission.waiting:
            picker.admission.wake(prefiller, now)

    def _chunk(self, chunk: Chunk) -> None:
        flight = self._flight
        if flight is None:
            return
        self._first_byte(flight)
        if self._exchange.observer:
            # The beginning of a response is all of it, if it is short and no stream.
            usage = openai.read_usage(chunk.body) if b'"usage"' in chunk.body else None
            if usage is not None:
                flight.counted(usage)
            return
        window = self._tail + chunk.body
        if b'"usage"' in window:
            self._usage = openai.read_usage(window) or self._usage
        self._tail = window[-_USAGE_BYTES:]
        if chunk.end_of_stream and self._usage is not None:
            self._picker.telemetry.saw_usage(flight.pool, self._usage)
            flight.counted(self._usage)

    def _first_byte(self, flight: Flight) -> None:
        now = self._picker.clock()
        seconds = flight.first_byte(now)
        if seconds is None:
            return
        self._proves(flight)
        self._picker.telemetry.saw_first_byte(flight.pool, seconds, flight.decision.first_token_s)
        self._wake(flight, now)

    def _proves(self, flight: Flight) -> None:
        """If it was a probe, that has succeeded: the end of an answer, and of a WebSocket, may be far."""
        if flight.watch is not None and flight.went_well(True):
            flight.proven = True
            self._picker.director.health.went_well(flight.place, flight.placed_at, self._picker.clock())

    def _priced(self, outputs: tuple[Output, ...], chunk: Chunk) -> tuple[Output, ...]:
        """With the body's end, what the request cost: for whoever reads the proxy's metadata, as rate limits do."""
        if not chunk.end_of_stream or self._usage is None:
            return outputs
        *others, last = outputs
        assert isinstance(last, Reply)
        cost = {wire.REQUEST_COST_KEY: self._usage.prompt + self._usage.completion}
        return (*others, last._replace(metadata={**last.metadata, **cost}))

    def _end(self, flight: Flight) -> None:
        now = self._picker.clock()
        self._picker.director.end(flight, now)
        self._wake(flight, now)

    def _wake(self, flight: Flight, now: float) -> None:
        """There may be room where it is."""
        if self._picker.admission.waiting:
            for place in flight.places:
                self._picker.admission.wake(place, now)

    def _fault(self, place: str, status: GrpcStatus, detail: str) -> None:
        self._picker.telemetry.faults[place] += 1
        self._call.finish(status, detail)

    def _send(self, outputs: tuple[Output, ...]) -> None:
        for output in outputs:
            if isinstance(output, Finish):
                self._call.finish()
            else:
                self._call.send(codec.encode(output))


class Health(Conversation):
    """One stream of Health/Check. `liveness` is true while we answer at all; the rest, when we can place requests."""

    __slots__ = ("_call", "_picker")

    def __init__(self, picker: Picker, call: Call) -> None:
        self._picker = picker
        self._call = call

    def receive(self, message: bytes) -> None:
        try:
            service = codec.decode_health_service(message)
        except codec.MalformedMessage as error:
            self._call.finish(GrpcStatus.INVALID_ARGUMENT, str(error))
            return
        if service == "liveness":
            serving: bool | None = True
        elif service in ("", "readiness", wire.EXT_PROC_SERVICE):
            serving = self._picker.ready()
        else:
            self._call.finish(GrpcStatus.NOT_FOUND, "unknown service")
            return
        self._call.send(codec.encode_health(serving))
        self._call.finish()

    def half_closed(self) -> None:
        self._call.finish()

    def ended(self) -> None:
        """Nothing to release."""
