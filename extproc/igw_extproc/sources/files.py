"""Objects from files: what `igw up` accepted (one JSON file), or manifests as users write them.

Feeds the datastore with whole sets. A file that cannot be read or parsed leaves the last good set in place: what runs
goes on. Watches by the operating system's notices, so a change arrives in well under a second.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from watchfiles import Change, awatch

from igw_api import manifests
from igw_api.objectset import NotADump, ObjectSet
from igw_api.objectset import load as load_dump
from igw_extproc.datastore import Datastore

log = logging.getLogger(__name__)

_SUFFIXES = (".yaml", ".yml", ".json")


class BadObjects(ValueError):
    """A file that holds no objects we can serve. The text says which and why, one problem a line."""


def load(paths: Sequence[Path]) -> ObjectSet:
    """All objects of `paths` (files, or folders of *.yaml, *.yml, *.json). Raises BadObjects and OSError."""
    dumped = ObjectSet()
    parsed: dict[str, manifests.ParseResult] = {}
    for path in _files(paths):
        data = path.read_bytes()
        try:
            dumped = dumped.merge(load_dump(data))
        except NotADump:
            parsed[str(path)] = manifests.parse(data.decode("utf-8", "replace"), str(path))
    objects, problems = manifests.collect(parsed)
    if problems:
        raise BadObjects("\n".join(str(problem) for problem in problems))
    return dumped.merge(objects)


async def watch(paths: Sequence[Path], datastore: Datastore, stop: asyncio.Event) -> None:
    """Keep `datastore` equal to `paths` until `stop`. The first load is the caller's."""
    folders = {path if path.is_dir() else path.parent for path in paths}
    shown = {str(path) for path in paths if not path.is_dir()}

    def ours(_: Change, path: str) -> bool:
        return path in shown or (path.endswith(_SUFFIXES) and Path(path).parent in folders)

    async for _ in awatch(*folders, watch_filter=ours, stop_event=stop, debounce=100, step=20, recursive=False):
        try:
            objects = await asyncio.to_thread(load, paths)
        except (OSError, BadObjects) as error:
            log.error("objects not loaded, the last good ones stay reason=%s", error)
            continue
        datastore.replace(objects)
        log.info("objects loaded pools=%d members=%d", len(objects.pools), len(objects.members))


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
        else:
            found.append(path)
    return found
