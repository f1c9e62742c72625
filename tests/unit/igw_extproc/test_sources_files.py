"""Objects from files: whole sets, kept equal to what the files say, and never worse than the last good one."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from igw_api.objectset import ObjectSet, dump
from igw_extproc.datastore import Datastore
from igw_extproc.sources.files import BadObjects, load, watch
from igw_testing.builders import members, pool
from igw_testing.manifest_texts import V1, manifest

# Longest wait for a change to be seen; notices come within a fraction of a second.
PATIENCE = 10.0


def pool_text(name: str = "llm") -> str:
    """A pool's manifest."""
    spec = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]}
    return manifest("InferencePool", V1, spec, name=name, namespace="default")


def names(objects: ObjectSet) -> list[str]:
    """The pools."""
    return [str(key) for key in objects.pools]


# ------------------------------------------------------------------------------------------------ load


def test_manifests_and_dumps_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    """A dump is what `igw up` has accepted; both may come as .json."""
    (tmp_path / "a.json").write_bytes(dump(ObjectSet.of([pool("dumped"), *members(2, "dumped")])))
    (tmp_path / "b.yaml").write_text(pool_text("written"))
    objects = load([tmp_path])
    assert names(objects) == ["default/dumped", "default/written"]
    assert len(objects.members) == 2


def test_of_a_folder_only_manifests_are_read_and_its_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "pool.yml").write_text(pool_text())
    (tmp_path / "notes.txt").write_text("kind: [")
    (tmp_path / "pool.yaml~").write_text("kind: [")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "pool.yaml").write_text(pool_text("deeper"))
    assert names(load([tmp_path])) == ["default/llm"]


def test_a_file_that_is_named_is_read_whatever_its_ending(tmp_path: Path) -> None:
    path = tmp_path / "objects"
    path.write_text(pool_text())
    assert names(load([path, path])) == ["default/llm"]


def test_no_files_are_no_objects(tmp_path: Path) -> None:
    assert load([tmp_path]) == load([]) == ObjectSet()


def test_every_problem_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("InferencePool", V1, {}, name="no-ports"))
    (tmp_path / "b.yaml").write_text("kind: [")
    with pytest.raises(BadObjects) as caught:
        load([tmp_path])
    lines = str(caught.value).splitlines()
    assert len(lines) >= 2
    assert any("a.yaml" in line for line in lines) and any("b.yaml" in line for line in lines)


def test_bytes_that_are_no_text_are_a_problem_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00kind")
    with pytest.raises(BadObjects, match=r"a\.yaml"):
        load([tmp_path])


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load([tmp_path / "none.yaml"])


# ------------------------------------------------------------------------------------------------ watch


class Watched:
    """A datastore that is kept equal to some files."""

    def __init__(self) -> None:
        self.datastore = Datastore("prefix-cache", lambda: 0.0)
        self.changes = 0
        self.datastore.subscribe(self._changed)
        self.stop = asyncio.Event()

    def _changed(self) -> None:
        self.changes += 1

    def pools(self) -> list[str]:
        """The pools that are served."""
        return list(self.datastore.views)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  (nothing else tells)
                await asyncio.sleep(0.005)

    async def serves(self, *names: str) -> None:
        """Wait until exactly these pools are served."""
        await self.until(lambda: self.pools() == [f"default/{name}" for name in names])


@asynccontextmanager
async def watched(*paths: Path) -> AsyncIterator[Watched]:
    """Watch, and stop at the end."""
    here = Watched()
    async with asyncio.TaskGroup() as group:
        group.create_task(watch(paths, here.datastore, here.stop))
        try:
            yield here
        finally:
            here.stop.set()


async def test_what_changed_before_the_watch_began_is_seen_as_well(tmp_path: Path) -> None:
    """Between the caller's first load and the first notice there is time for a change."""
    (tmp_path / "a.yaml").write_text(pool_text("early"))
    async with watched(tmp_path) as here:
        await here.serves("early")


async def test_what_was_removed_before_the_watch_began_is_not_served(tmp_path: Path) -> None:
    async with watched(tmp_path) as here:
        here.datastore.replace(ObjectSet.of([pool("gone")]))
        await here.serves()


async def test_a_folder_that_is_replaced_as_a_whole_is_followed(tmp_path: Path) -> None:
    """The system's notices are about the old one."""
    folder, new = tmp_path / "objects", tmp_path / "new"
    for place, name in ((folder, "old"), (new, "new")):
        place.mkdir()
        (place / "a.yaml").write_text(pool_text(name))
    async with watched(folder) as here:
        await here.serves("old")
        folder.rename(tmp_path / "old")
        new.rename(folder)
        await here.serves("new")


async def test_files_that_come_change_and_go_are_followed(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(pool_text("a"))
    async with watched(tmp_path) as here:
        await here.serves("a")
        second.write_text(pool_text("b"))
        await here.serves("a", "b")
        first.write_text(pool_text("c"))
        await here.serves("b", "c")
        second.unlink()
        await here.serves("c")


async def test_a_file_may_be_replaced_by_another_of_its_name(tmp_path: Path) -> None:
    """As editors do, and as whoever wants no half-written file to be read."""
    path, new = tmp_path / "objects.json", tmp_path / "objects.json.new"
    path.write_bytes(dump(ObjectSet.of([pool("old")])))
    async with watched(path) as here:
        await here.serves("old")
        new.write_bytes(dump(ObjectSet.of([pool("new")])))
        os.replace(new, path)
        await here.serves("new")


async def test_a_broken_file_changes_nothing_and_a_mended_one_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(pool_text("good"))
    async with watched(tmp_path) as here:
        await here.serves("good")
        path.write_text("kind: [")
        await here.until(lambda: "objects not loaded" in caplog.text)
        assert here.pools() == ["default/good"]
        path.write_text(pool_text("better"))
        await here.serves("better")


async def test_a_file_that_vanishes_and_returns_costs_nothing_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(pool_text("one"))
    async with watched(path) as here:
        await here.serves("one")
        path.unlink()
        await here.until(lambda: "objects not loaded" in caplog.text)
        assert here.pools() == ["default/one"]
        path.write_text(pool_text("two"))
        await here.serves("two")


async def test_files_that_do_not_matter_cause_no_reload(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(pool_text("a"))
    async with watched(path) as here:
        await here.serves("a")
        for number in range(5):
            (tmp_path / f"other-{number}.yaml").write_text("kind: [")
        path.write_text(pool_text("b"))
        await here.serves("b")
        assert here.changes == 2


async def test_stopping_ends_the_watch_within_its_deadline(tmp_path: Path) -> None:
    here = Watched()
    here.stop.set()
    async with asyncio.timeout(PATIENCE):
        await watch([tmp_path], here.datastore, here.stop)


async def test_a_cancelled_watch_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text(pool_text("a"))
    here = Watched()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        task = group.create_task(watch([tmp_path], here.datastore, here.stop))
        await here.serves("a")
        task.cancel()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
