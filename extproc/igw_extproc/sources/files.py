"""Objects from files: what `igw up` accepted (one JSON file), or manifests as users write them.

Feeds the datastore with whole sets. A file that cannot be read or parsed leaves the last good set in place: what runs
goes on. Watches by the operating system's notices, so a change arrives in well under a second.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from watchfiles import awatch

from igw_api import manifests
from igw_api.objectset import NotADump, ObjectSet
from igw_api.objectset import load as load_dump
from igw_extproc.datastore import Datastore

log = logging.getLogger(__name__)

# Not every file system gives notice, nor does a change just before the watch began: look again this often.
_LOOK_ANYWAY_MS: Final = 1000
_Stamps = dict[Path, tuple[int, int, int]]
_SUFFIXES = (".yaml", ".yml", ".json")


class BadObjects(ValueError):
    """A file that holds no objects we can serve. The text says which and why, one problem a line."""


def load(paths: Sequence[Path]) -> ObjectSet:
    """All objects of `paths` (files, or folders of *.yaml, *.yml, *.json). Raises BadObjects and OSError."""
    dumped = ObjectSet()
    parsed: dict[str, manifests.ParseResult] = {}
    for path in _files(paths):
        with path.open("rb") as file:
            data = file.read(manifests.MAX_BYTES + 1)
        if len(data) > manifests.MAX_BYTES:
            raise BadObjects(f"{path}: is larger than {manifests.MAX_BYTES // 2**20} MiB")
        try:
            dumped = dumped.merge(load_dump(data))
        except NotADump:
            parsed[str(path)] = manifests.parse(data.decode("utf-8", "replace"), str(path))
    objects, problems = manifests.collect(parsed)
    if problems:
        raise BadObjects("\n".join(str(problem) for problem in problems))
    return dumped.merge(objects)


async def watch(paths: Sequence[Path], datastore: Datastore, stop: asyncio.Event) -> None:
    """Keep `datastore` equal to `paths` until `stop`. The first load is the caller's, and is checked soon."""
    folders = await asyncio.to_thread(_folders, paths)
    known: _Stamps | None = None
    async for _ in awatch(
        *folders,
        watch_filter=None,
        stop_event=stop,
        debounce=100,
        step=20,
        recursive=False,
        rust_timeout=_LOOK_ANYWAY_MS,
        yield_on_timeout=True,
    ):
        stamps = await asyncio.to_thread(_stamps, paths)
        if stamps != known:
            known = stamps
            await _reload(paths, datastore)


async def _reload(paths: Sequence[Path], datastore: Datastore) -> None:
    try:
        objects = await asyncio.to_thread(load, paths)
    except (OSError, BadObjects) as error:
        log.error("objects not loaded, the last good ones stay reason=%s", error)
        return
    datastore.replace(objects)
    log.info("objects loaded pools=%d members=%d", len(objects.pools), len(objects.members))


def _folders(paths: Sequence[Path]) -> set[Path]:
    return {path if path.is_dir() else path.parent for path in paths}


def _stamps(paths: Sequence[Path]) -> _Stamps:
    """What tells one version of the files from another."""
    stamps: _Stamps = {}
    for path in _files(paths):
        with suppress(OSError):  # it went between two looks: that is a change as well
            told = path.stat()
            stamps[path] = (told.st_mtime_ns, told.st_size, told.st_ino)
    return stamps


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
        else:
            found.append(path)
    return found
