"""List and watch, held to an API server that does everything a real one may do on a bad day.

Real sockets; the server is a script of the test's own, since no real one can be made to misbehave on demand.
"""

import asyncio
import gc
import json
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from igw_extproc.sources.kube_api import Mirror, Pace, connected
from igw_testing.http2_peers import until

PATH = "/api/v1/namespaces/default/pods"
# Everything is over quickly, but for what must not happen.
PATIENCE = 30.0  # seconds; a machine may have much else to do
PACE = Pace(answer=2.0, watch=60.0, silence=5.0, first_pause=0.01, longest_pause=0.05, credentials=60.0)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pod(name: str, said: str = "", version: int = 1) -> dict[str, Any]:
    """As much of a Pod as the protocol looks at."""
    return {"metadata": {"namespace": "default", "name": name, "resourceVersion": str(version)}, "said": said}


def event(kind: str, item: dict[str, Any]) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def expired() -> bytes:
    """What a server says of a version it has forgotten, in the middle of a watch."""
    return event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


@dataclass
class Server:
    """Answers lists and watches as the test says, each answer once; without one, what it has, and silence."""

    pods: list[dict[str, Any]] = field(default_factory=list)
    version: int = 1
    lists: deque[Answer] = field(default_factory=deque)
    watches: deque[Answer] = field(default_factory=deque)
    asked: list[dict[str, str]] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        self.asked_at.append(asyncio.get_running_loop().time())
        self.tokens.append(request.headers.get("Authorization", ""))
        watching = "watch" in request.query
        script = self.watches if watching else self.lists
        if script:
            return await script.popleft()(request)
        if watching:
            return await says(hold=True)(request)
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": self.pods})

    def asked_to_watch(self) -> list[str]:
        """From which versions, in order."""
        return [one["resourceVersion"] for one in self.asked if "watch" in one]

    def asked_to_list(self) -> int:
        """How often."""
        return sum("watch" not in one for one in self.asked)

    async def is_left_alone(self, watched: bool, first: float) -> None:
        """Six tries, with pauses that begin at `first` seconds, double, and are at most halved by chance."""

        def tries() -> list[float]:
            return [at for at, one in zip(self.asked_at, self.asked, strict=True) if ("watch" in one) is watched]

        await until(lambda: len(tries()) >= 6, PATIENCE)
        pauses = [later - at for at, later in pairwise(tries()[:6])]
        # A slow machine makes them longer, never shorter.
        assert all(pause >= 0.49 * first * 2**number for number, pause in enumerate(pauses)), pauses


def says(*chunks: bytes, hold: bool = False) -> Answer:
    """A watch that tells these pieces of text, then ends, or says nothing any more."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        if hold:
            await asyncio.sleep(30)
        return response

    return answer


def refuses(status: int) -> Answer:
    """An error, in the API's shape."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "message": "no"}, status=status)

    return answer


def breaks_off(*chunks: bytes) -> Answer:
    """A connection that is reset in the middle."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = await says(*chunks)(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    return answer


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[None]:
    """The server on a port of the system's choice."""
    app = web.Application()
    app.router.add_get("/{tail:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, reuse_port=False).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield
    finally:
        await runner.cleanup()


def kubeconfig(place: Path, url: str, **user: str) -> Path:
    """One for this server; plain HTTP."""
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": url}}],
        "users": [{"name": "x", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }
    place.write_text(yaml.safe_dump(text))
    return place


@dataclass
class Copy:
    """What the mirror has, and how often it said that something changed."""

    mirror: Mirror[str]
    changes: list[int]

    async def has(self, **said: str) -> None:
        """Wait until it holds exactly these."""

        def is_so() -> bool:
            items = self.mirror.items
            return items is not None and {key.name: one for key, one in items.items()} == said

        await until(is_so, PATIENCE)


@asynccontextmanager
async def mirrored(server: Server, folder: Path, pace: Pace = PACE, **user: str) -> AsyncIterator[Copy]:
    """A mirror that runs against the server. It keeps what a Pod said, and none that said nothing."""
    async with serving(server):
        file = await asyncio.to_thread(kubeconfig, folder / "config", server.url, **user)
        async with connected(file, pace) as api, asyncio.TaskGroup() as group:
            changes: list[int] = []
            made = Mirror(
                api,
                PATH,
                {"labelSelector": "a=b"},
                lambda item: item["said"] or None,
                lambda: changes.append(1),
                random.Random(0),
            )
            task = group.create_task(made.run())
            try:
                yield Copy(made, changes)
            finally:
                task.cancel()


# ------------------------------------------------------------------------------------------------ lists and watches


async def test_a_watch_goes_on_from_the_list_and_is_narrowed_alike(tmp_path: Path) -> None:
    server = Server([pod("a", "one")], version=7)
    server.watches.append(says(event("ADDED", pod("b", "two", 8)), event("MODIFIED", pod("a", "new", 9)), hold=True))
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="new", b="two")
        assert server.asked_to_watch() == ["7"]
        assert {one["labelSelector"] for one in server.asked} == {"a=b"}
        assert server.asked[-1]["allowWatchBookmarks"] == "true"


async def test_a_long_list_is_read_page_by_page(tmp_path: Path) -> None:
    server = Server()

    async def page(request: web.Request) -> web.StreamResponse:
        number = int(request.query.get("continue", "0"))
        rest = {"continue": str(number + 1)} if number < 2 else {}
        return web.json_response({"metadata": {"resourceVersion": "5", **rest}, "items": [pod(f"p{number}", "x")]})

    server.lists.extend([page, page, page])
    async with mirrored(server, tmp_path) as copy:
        await copy.has(p0="x", p1="x", p2="x")
        assert len(copy.changes) == 1, "nobody sees half a list"


async def test_what_is_deleted_or_no_longer_of_interest_is_gone(tmp_path: Path) -> None:
    server = Server([pod("a", "one"), pod("b", "two"), pod("c", "three")])
    server.watches.append(says(event("DELETED", pod("a", "one", 2)), event("MODIFIED", pod("b", "", 3)), hold=True))
    async with mirrored(server, tmp_path) as copy:
        await copy.has(c="three")


async def test_changes_that_make_no_difference_are_not_told(tmp_path: Path) -> None:
    """A Pod's status changes far more often than what placement needs of it."""
    server = Server([pod("a", "one")])
    same = [event("MODIFIED", pod("a", "one", version)) for version in range(2, 50)]
    server.watches.append(says(*same, event("MODIFIED", pod("a", "new", 50)), hold=True))
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="new")
        assert len(copy.changes) == 2


@pytest.mark.parametrize("size", [1, 7, 4000])
async def test_lines_may_be_cut_anywhere_and_be_of_any_length(tmp_path: Path, size: int) -> None:
    server = Server()
    text = event("ADDED", pod("a", "x" * 300_000 if size == 4000 else "x", 2)) + event("ADDED", pod("b", "ü", 3))
    server.watches.append(says(*(text[at : at + size] for at in range(0, len(text), size)), hold=True))
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="x" * 300_000 if size == 4000 else "x", b="ü")


# ------------------------------------------------------------------------------------------------ bad days


async def test_a_watch_that_ends_is_taken_up_where_it_ended_bookmarks_included(tmp_path: Path) -> None:
    server = Server([pod("a", "one")], version=5)
    server.watches.append(says(event("ADDED", pod("b", "two", 6))))
    server.watches.append(says(event("BOOKMARK", pod("", "", 40))))
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="one", b="two")
        await until(lambda: len(server.asked_to_watch()) == 3, PATIENCE)
        assert server.asked_to_watch() == ["5", "6", "40"]
        assert server.asked_to_list() == 1


@pytest.mark.parametrize("answer", [says(expired()), refuses(410), refuses(504), refuses(500)])
async def test_a_version_that_the_server_does_not_take_is_followed_by_a_new_list(
    tmp_path: Path, answer: Answer
) -> None:
    """Too old, or from a time that the server has lost. What went unseen meanwhile is found."""
    server = Server([pod("a", "one"), pod("b", "two")])

    async def later(request: web.Request) -> web.StreamResponse:
        server.pods = [pod("a", "new", 9)]
        return await answer(request)

    server.watches.append(later)
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="new")


async def test_a_connection_that_breaks_costs_nothing_that_is_known(tmp_path: Path) -> None:
    server = Server([pod("a", "one")], version=5)
    server.watches.extend([breaks_off(event("ADDED", pod("b", "two", 6))), breaks_off(b'{"type": "ADD')])
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="one", b="two")
        await until(lambda: len(server.asked_to_watch()) == 3, PATIENCE)
        assert server.asked_to_watch() == ["5", "6", "6"]
        await copy.has(a="one", b="two")


async def test_a_silent_watch_is_given_up(tmp_path: Path) -> None:
    """A dead connection, of which nobody told us."""
    server = Server([pod("a", "one")])
    pace = Pace(silence=0.1, first_pause=0.01, longest_pause=0.05)
    async with mirrored(server, tmp_path, pace) as copy:
        await copy.has(a="one")
        await until(lambda: len(server.asked_to_watch()) >= 3, PATIENCE)
        await copy.has(a="one")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_a_list_that_is_refused_is_tried_again_until_it_is_not(
    tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Rights may come later than the picker. The log has each trouble once."""
    server = Server([pod("a", "one")])
    server.lists.extend([refuses(status)] * 3)
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="one")
    assert sum(f"reason={status} no" in record.getMessage() for record in caplog.records) == 1


async def test_a_list_that_is_forbidden_is_told_apart_from_other_troubles_until_it_is_allowed(tmp_path: Path) -> None:
    """Who waits for it must know that waiting alone may not help; both turns are told."""
    server = Server([pod("a", "one")])
    heard: list[tuple[bool, bool]] = []

    async def seen(request: web.Request) -> web.StreamResponse:
        heard.append((copy.mirror.forbidden, bool(copy.changes)))
        return await refuses(403 if len(heard) < 3 else 503)(request)

    server.lists.extend([seen, seen, seen, seen])
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="one")
        assert not copy.mirror.forbidden
    assert heard == [(False, False), (True, True), (True, True), (False, True)]


async def test_a_watch_that_is_refused_after_each_list_does_not_make_us_spin(tmp_path: Path) -> None:
    """A role may allow to list and not to watch. What is listed counts, and the log has the trouble once."""
    server = Server([pod("a", "one")])
    server.watches.extend([refuses(403)] * 1000)
    async with mirrored(server, tmp_path, Pace(first_pause=0.05, longest_pause=10.0)) as copy:
        await server.is_left_alone(watched=False, first=0.05)
        await copy.has(a="one")


@pytest.mark.parametrize("text", [b"<html>", b'{"items": []}', b"[]", b'{"items": [{}], "metadata": {}}'])
async def test_nonsense_is_no_list(tmp_path: Path, text: bytes) -> None:
    """A proxy in between that answers in the server's place."""
    server = Server([pod("a", "one")])

    async def nonsense(_: web.Request) -> web.StreamResponse:
        return web.Response(body=text)

    server.lists.append(nonsense)
    server.watches.append(says(b"<html>\n"))
    async with mirrored(server, tmp_path) as copy:
        await copy.has(a="one")
        await until(lambda: len(server.asked_to_watch()) == 2, PATIENCE)


async def test_pauses_grow_so_that_a_server_in_trouble_is_left_alone(tmp_path: Path) -> None:
    server = Server()
    server.lists.extend([refuses(503)] * 200)
    pace = Pace(first_pause=0.05, longest_pause=10.0)
    async with mirrored(server, tmp_path, pace):
        await server.is_left_alone(watched=False, first=0.05)


async def test_a_watch_that_ends_at_once_again_and_again_does_not_make_us_spin(tmp_path: Path) -> None:
    server = Server()
    server.watches.extend([says()] * 1000)
    async with mirrored(server, tmp_path, Pace(first_pause=0.05, longest_pause=10.0, settled=60.0)):
        await server.is_left_alone(watched=True, first=0.05)


# ------------------------------------------------------------------------------------------------ credentials


async def test_a_token_that_was_replaced_on_disk_is_used(tmp_path: Path) -> None:
    """The kubelet does that before each expires."""
    server, token = Server([pod("a", "one")]), tmp_path / "token"
    token.write_text("first")
    server.watches.extend([says()] * 1000)
    pace = Pace(first_pause=0.02, longest_pause=0.02, credentials=0.1)
    async with mirrored(server, tmp_path, pace, tokenFile=str(token)) as copy:
        await copy.has(a="one")
        assert server.tokens[-1] == "Bearer first"
        token.write_text("second")
        await until(lambda: server.tokens[-1] == "Bearer second", PATIENCE)


async def test_a_token_that_the_server_refuses_is_read_again_at_once(tmp_path: Path) -> None:
    server, token = Server([pod("a", "one")]), tmp_path / "token"
    token.write_text("first")

    async def replaced(request: web.Request) -> web.StreamResponse:
        token.write_text("second")
        return await refuses(401)(request)

    server.lists.append(replaced)
    async with mirrored(server, tmp_path, tokenFile=str(token)) as copy:
        await copy.has(a="one")
        assert server.tokens[:2] == ["Bearer first", "Bearer second"]


async def test_credentials_that_cannot_be_read_for_a_while_stop_nothing(tmp_path: Path) -> None:
    server = Server([pod("a", "one")])
    server.watches.extend([says()] * 1000)
    async with mirrored(server, tmp_path, Pace(first_pause=0.01, longest_pause=0.02, credentials=0.0)) as copy:
        await copy.has(a="one")
        good = (tmp_path / "config").read_text()
        (tmp_path / "config").write_text("x: [")
        await asyncio.sleep(0.1)
        (tmp_path / "config").write_text(good)
        before = len(server.asked)
        await until(lambda: len(server.asked) > before + 2, PATIENCE)
        await copy.has(a="one")


@asynccontextmanager
async def no_garbage_is_collected() -> AsyncIterator[None]:
    """What other tests have left behind takes time to look through."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_the_loop_is_not_held_up_by_a_list_of_five_hundred(tmp_path: Path) -> None:
    """Requests are placed on the same loop. Ten kilobytes a Pod, as real ones have.

    In the thread's own seconds: those in which the machine does something else are none of the code's.
    """
    pods = [{**pod(f"p{number}", "x"), "filler": "y" * 10_000} for number in range(500)]
    pages = [pods[at : at + 100] for at in range(0, 500, 100)]
    bodies = [
        json.dumps({"metadata": {"resourceVersion": "5", **({"continue": "c"} if at < 4 else {})}, "items": page})
        for at, page in enumerate(pages)
    ]
    server = Server()

    def told(body: str) -> Answer:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(text=body)

        return answer

    server.lists.extend(told(body) for body in bodies)
    longest = 0.0
    async with mirrored(server, tmp_path) as copy, no_garbage_is_collected():
        last = time.thread_time()
        while copy.mirror.items is None:
            await asyncio.sleep(0)
            longest, last = max(longest, time.thread_time() - last), time.thread_time()
        assert len(copy.mirror.items) == 500
    assert longest < 0.05, f"the loop stood still for {longest * 1000:.0f} ms, the server's part included"
