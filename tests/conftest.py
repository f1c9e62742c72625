"""What every test gets: a gate that fails it when the picker's code blocks the event loop.

One loop serves all requests, so a single blocking read, lock or sleep is a delay for everybody. Only calls made from
`igw_extproc` while a loop runs count; threads and plain functions may block. A test that means to block asks for
`may_block`. Warnings are errors: see `filterwarnings` in pyproject.toml.
"""

from collections.abc import Iterator

import blockbuster.blockbuster as implementation
import pytest
from blockbuster import BlockBuster, BlockingError
from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("igw", deadline=None)
settings.load_profile("igw")


class BlockingCalls(list[str]):
    """The blocking calls that this test made, by function."""


@pytest.fixture(scope="session")
def _detector() -> BlockBuster:
    # The command line starts the loop, so all that runs in the loop would count as called from it.
    detector = BlockBuster("igw_extproc", excluded_modules=["igw_extproc.cli"])
    # Where log lines go is the process's choice, not the code's that logs.
    for function in ("io.TextIOWrapper.write", "io.BufferedWriter.write"):
        detector.functions[function].can_block_in("logging/__init__.py", {"emit", "flush"})
    # grpc joins its poller when its last object is collected, wherever the collector happens to run.
    detector.functions["threading.Lock.acquire"].can_block_in("threading.py", "join")
    return detector


@pytest.fixture(autouse=True)
def blocking_calls(
    request: pytest.FixtureRequest, _detector: BlockBuster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BlockingCalls]:
    """Fails the test at its end too: the error raised at the call may have been caught on its way."""
    calls = BlockingCalls()
    if "may_block" in request.fixturenames:
        yield calls
        return

    class Recorded(BlockingError):
        def __init__(self, function: str) -> None:
            super().__init__(function)
            calls.append(function)

    monkeypatch.setattr(implementation, "BlockingError", Recorded)
    _detector.activate()
    try:
        yield calls
    finally:
        _detector.deactivate()
    if calls:
        pytest.fail(f"the event loop was blocked by: {', '.join(calls)}")


@pytest.fixture
def may_block() -> None:
    """Ask for it to leave the gate off in one test."""
