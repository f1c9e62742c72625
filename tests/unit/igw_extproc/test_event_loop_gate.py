"""The gate in tests/conftest.py: it must see what blocks, or its silence means nothing."""

import asyncio
from pathlib import Path

import pytest
from blockbuster import BlockingError

from igw_extproc.sources import files


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A file that holds nothing."""
    path = tmp_path / "empty.yaml"
    path.write_text("")
    return path


async def test_a_file_read_on_the_loop_by_the_picker_is_caught(manifest: Path, blocking_calls: list[str]) -> None:
    with pytest.raises(BlockingError):
        files.load([manifest])
    assert blocking_calls
    blocking_calls.clear()


async def test_a_caught_error_still_counts(manifest: Path, blocking_calls: list[str]) -> None:
    """The picker turns unexpected errors into a fault and goes on."""
    with pytest.raises(Exception, match="Blocking call"):
        files.load([manifest])
    assert len(blocking_calls) == 1
    blocking_calls.clear()


async def test_threads_may_block(manifest: Path) -> None:
    await asyncio.to_thread(files.load, [manifest])


async def test_the_tests_themselves_may_block(manifest: Path) -> None:
    assert manifest.read_bytes() == b""  # noqa: ASYNC240


def test_without_a_loop_all_may_block(manifest: Path) -> None:
    files.load([manifest])


async def test_a_test_may_opt_out(manifest: Path, may_block: None) -> None:
    files.load([manifest])
