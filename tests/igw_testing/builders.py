"""Short ways to make the picker's objects in tests. Every default is harmless; a test names only what it is about."""

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from igw_api.limits import Limits
from igw_api.objects import (
    AnyObject,
    FailureMode,
    Key,
    Lead,
    Member,
    Model,
    Objective,
    Policy,
    Pool,
    Queue,
    Rewrite,
    RewriteRule,
    Shadow,
    Target,
)
from igw_api.objectset import ObjectSet
from igw_api.split import Split
from igw_api.standby import Standby
from igw_extproc.datastore import Datastore
from igw_extproc.director import Director
from igw_extproc.domain import Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.messages import Arrived, BodyMode, Message, Part
from igw_extproc.scheduling.prefix import PrefixIndex

NAMESPACE = "default"
PORT = 8000

# ------------------------------------------------------------------------------------------------ objects


def key(name: str, namespace: str = NAMESPACE) -> Key:
    """An object's identity."""
    return Key(namespace, name)


def pool(name: str = "llm", namespace: str = NAMESPACE, ports: tuple[int, ...] = (PORT,), created: float = 0.0) -> Pool:
    """A pool that selects the members labelled with its name."""
    return Pool(key(name, namespace), {"pool": name}, ports, failure_mode=FailureMode.OPEN, created=created)


def member(host: int = 1, pool: str = "llm", namespace: str = NAMESPACE, ready: bool = True) -> Member:
    """The engine at 10.0.0.`host`, in that pool."""
    return Member(key(f"engine-{host}", namespace), f"10.0.0.{host}", labels={"pool": pool}, ready=ready)


def members(count: int, pool: str = "llm") -> list[Member]:
    """Engines 1 to `count`."""
    return [member(host, pool) for host in range(1, count + 1)]


def address(host: int = 1) -> str:
    """Where `member(host)` listens."""
    return f"10.0.0.{host}:{PORT}"


def targets(**weights: int) -> tuple[Target, ...]:
    """Targets by name and weight."""
    return tuple(Target(name, weight) for name, weight in weights.items())


def model(
    name: str, *, pool: str = "llm", object_name: str = "", priority: int = 0, created: float = 0.0, **weights: int
) -> Model:
    """A model that clients ask for as `name`. `weights`: its targets."""
    return Model(key(object_name or name), key(pool), name, priority, targets(**weights), created)


def objective(name: str, priority: int, pool: str = "llm") -> Objective:
    """An objective that requests name to get that priority."""
    return Objective(key(name), key(pool), priority)


def rewrite(name: str, *rules: RewriteRule, pool: str = "llm", created: float = 0.0) -> Rewrite:
    """Rules that replace model names."""
    return Rewrite(key(name), key(pool), rules, created)


def rule(*models: str, **weights: int) -> RewriteRule:
    """Requests for any of `models` (none: all) get one of the targets."""
    return RewriteRule(frozenset(models), targets(**weights))


def policy(
    scheduling: str,
    *pools: str,
    name: str = "policy",
    created: float = 0.0,
    queue: Queue | None = None,
    shadow: Shadow | None = None,
    split: Split | None = None,
    standbys: tuple[Standby, ...] = (),
    first_byte: float | None = None,
    limits: Limits | None = None,
) -> Policy:
    """How those pools place requests."""
    targets = tuple(key(one) for one in pools or ("llm",))
    made = Policy(key(name), targets, scheduling, created, queue, shadow, split, standbys, first_byte)
    return replace(made, limits=limits)


def lead(*pools: str, announce: bool = False) -> Lead:
    """A route that those pools share, the default first."""
    return Lead(tuple(key(one) for one in pools), announce)


# ------------------------------------------------------------------------------------------------ the picker's parts


def endpoint(host: int = 1) -> Endpoint:
    """The endpoint that `member(host)` gives to its pool."""
    return Endpoint(address(host), {"pool": "llm"})


def load(
    running: float = 0.0,
    waiting: float = 0.0,
    kv_usage: float | None = None,
    kv_capacity_tokens: int | None = None,
    generation_tokens_total: float | None = None,
) -> EngineLoad:
    """What a vLLM engine says."""
    told = EngineLoad(EngineKind.VLLM, running, waiting, kv_usage, kv_capacity_tokens)
    return replace(told, generation_tokens_total=generation_tokens_total)


def ledger(host: int = 1, said: EngineLoad | None = None) -> Ledger:
    """An available endpoint's ledger, after one scrape."""
    made = Ledger(endpoint(host), slot=host)
    made.scraped(made.scrape_started(), said if said is not None else load(), now=0.0)
    return made


class Picking:
    """A director over objects that may change, with endpoints that answer their scrapes."""

    def __init__(
        self,
        *objects: AnyObject,
        default_policy: str = "prefix-cache",
        seed: int = 0,
        leads: Mapping[str, Lead] | None = None,
    ) -> None:
        self.index = PrefixIndex()
        self.ledgers = Ledgers(gone=self._forget)
        self.now = 0.0  # what the datastore takes for the time
        self.datastore = Datastore(default_policy, lambda: self.now)
        self.director = Director(self.datastore, self.ledgers, self.index, random.Random(seed))
        self.datastore.subscribe(self._changed)
        self.serve(*objects, leads=leads)

    def serve(self, *objects: AnyObject, leads: Mapping[str, Lead] | None = None, unseen: Iterable[str] = ()) -> None:
        """Serve exactly these from now on; endpoints that are new answer their scrape with no load."""
        self.datastore.replace(ObjectSet.of(objects, leads), {key(one) for one in unseen})
        for one in self.ledgers:
            if one.load is None:
                one.scraped(one.scrape_started(), load(), now=0.0)

    def says(self, host: int, said: EngineLoad, now: float = 0.0) -> None:
        """The engine at `host` tells its load."""
        one = self.ledger(host)
        one.scraped(one.scrape_started(), said, now)

    def ledger(self, host: int) -> Ledger:
        """The ledger of `member(host)`."""
        found = self.ledgers.get(address(host))
        assert found is not None
        return found

    def in_flight(self) -> int:
        """Requests counted at all endpoints."""
        return sum(one.requests for one in self.ledgers)

    def _forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.director.shadows.forget(slot)

    def _changed(self) -> None:
        self.ledgers.sync(self.datastore.endpoints())
        self.director.refresh()


# ------------------------------------------------------------------------------------------------ requests


def chat(model: str | None = "m", content: Any = "hello", **fields: Any) -> bytes:
    """A chat completion's body with one message of the user."""
    named = {} if model is None else {"model": model}
    return json.dumps({**named, "messages": [{"role": "user", "content": content}], **fields}).encode()


def arrived(
    body: bytes = b"",
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
    *,
    complete: bool = True,
    subset: Sequence[str] | None = None,
    route: str | None = None,
) -> Arrived:
    """A request that came with its headers."""
    attributes = {} if route is None else {"xds.route_name": route}
    return Arrived(
        {":path": path, "content-type": "application/json", **(headers or {})},
        attributes,
        body,
        complete,
        None if subset is None else tuple(subset),
    )


def message(
    part: Part,
    body: bytes = b"",
    *,
    end: bool = False,
    headers: Mapping[str, str] | None = None,
    modes: tuple[BodyMode, BodyMode] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> Message:
    """One message of a proxy. `modes` (request, response) come with the first of a stream."""
    request_mode, response_mode = modes if modes is not None else (None, None)
    return Message(part, headers or {}, body, end, attributes or {}, request_mode, response_mode)


def pieces(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`body` divided at those positions, which need be neither sorted nor distinct."""
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(places)]
