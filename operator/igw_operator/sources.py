"""Manifest files, and directories that are Secrets: which there are, what they say, and when they change.

Used by `standalone`. Only reads; the meaning of a text is `igw_api.manifests`' business.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, suppress
from pathlib import Path
from types import MappingProxyType

from watchfiles import awatch

from igw_api.certificate import AUTHORITIES, CERTIFICATE, PRIVATE_KEY, fault
from igw_api.manifests import MAX_BYTES, Manifest, ParseResult, Problem, keep_last_good, parse
from igw_api.objects import Key, Secret

FIRST_LOOK = 300  # milliseconds
# What Kubernetes allows, but for names that begin with a dot: those are a mounted volume's own business.
SECRET_KEY = re.compile(r"[-_a-zA-Z0-9][-._a-zA-Z0-9]*")
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class Unusable(Exception):
    """A path that was named on the command line cannot be read."""


def check_pair(directory: Path, option: str) -> None:
    """A certificate, its key and its authorities are in the directory's files. Raises Unusable."""
    names = (CERTIFICATE, PRIVATE_KEY, AUTHORITIES)
    try:
        found = {name: (directory / name).read_text(encoding="utf-8") for name in names}
    except (OSError, UnicodeDecodeError) as error:
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{directory}: is not text"
        raise Unusable(f"{option}: {why}; it must hold {', '.join(names)}") from None
    if wrong := fault(Secret(Key("", option), found)):
        raise Unusable(f"{option} {directory}: {wrong}")


class Manifests:
    """The manifests of some paths, as last read, with the last good version of objects that are bad now."""

    def __init__(self, paths: Iterable[Path], secrets: Mapping[Key, Path] = MappingProxyType({})) -> None:
        self._paths = tuple(path.absolute() for path in paths)
        self._secrets = {key: path.absolute() for key, path in secrets.items()}
        self.results: Mapping[str, ParseResult] = {}

    def check(self) -> None:
        """Every path can be read. Raises Unusable."""
        for path in self._paths:
            if not path.exists():
                raise Unusable(f"{path}: no such file or directory")
        if not self._files():
            raise Unusable(f"{', '.join(map(str, self._paths))}: no .yaml, .yml or .json files")

    def read(self) -> Mapping[str, ParseResult]:
        """Read all files again. What a mistake has taken away stays as it was; the problems say so."""
        fresh = {str(path): self._parse(path) for path in self._files()}
        fresh |= {str(path): _secret(key, path) for key, path in self._secrets.items()}
        # A directory that is not there at all is being replaced; its absence is a problem of its own.
        held = {name: result for name, result in self.results.items() if self._is_away(Path(name).parent)}
        self.results = keep_last_good(self.results, held | fresh)
        return self.results

    def _is_away(self, directory: Path) -> bool:
        return directory in self._paths and not directory.exists()

    def _parse(self, path: Path) -> ParseResult:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
            if len(data) <= MAX_BYTES:
                return parse(data.decode(), str(path))
            why = f"it is larger than {MAX_BYTES // 2**20} MiB"
        except OSError as error:
            why = error.strerror or str(error)
        except UnicodeDecodeError:
            why = "it is not UTF-8 text"
        # Without a key: nobody can tell what the file held, so all of it is kept.
        return ParseResult(problems=(Problem(str(path), 1, f"cannot be read: {why}"),))

    def _files(self) -> tuple[Path, ...]:
        """Named files, there or not, and the manifest files of named directories, in a stable order."""
        found: dict[Path, None] = {}
        for path in self._paths:
            inside = sorted(one for one in path.iterdir() if _is_manifest(one)) if path.is_dir() else [path]
            found |= dict.fromkeys(inside)
        return tuple(found)

    async def changes(self, debounce: float) -> AsyncIterator[None]:
        """Yields once when the watch stands, then after any change in the directories of the paths.

        Several changes at once are one. Directories are watched, not files: editors and ConfigMap mounts replace files
        by renaming.
        """
        while True:
            with suppress(OSError):  # a directory that went away between two looks
                async for _ in self._changes_until_replaced(max(1, int(debounce * 1000))):
                    yield
            await asyncio.sleep(FIRST_LOOK / 1000)

    async def _changes_until_replaced(self, step: int) -> AsyncIterator[None]:
        """The same, until one of the directories is another than at the beginning. Raises OSError."""
        watched = self._watched()
        standing = False
        # Timeouts: the first says that the watch stands, since what changed before would else never be seen; each one
        # is a look for directories that were replaced, whose watch went with the old ones.
        changes = awatch(
            *watched,
            watch_filter=None,
            recursive=False,
            step=step,
            debounce=10 * step,
            rust_timeout=FIRST_LOOK,
            yield_on_timeout=True,
        )
        async with aclosing(changes):
            async for found in changes:
                if found or not standing:
                    standing = True
                    yield
                if self._watched() != watched:
                    return

    def _watched(self) -> dict[Path, tuple[int, int]]:
        """The directories to watch, each with what tells it from another of that name. Raises OSError."""
        found: dict[Path, tuple[int, int]] = {}
        for path in (*self._paths, *self._secrets.values()):
            directory = next(one for one in (path, *path.parents) if one.is_dir())
            about = directory.stat()
            found[directory] = (about.st_dev, about.st_ino)
        return found


def _secret(key: Key, directory: Path) -> ParseResult:
    """A Secret from a directory, a file for each of its keys, as Kubernetes mounts them."""
    try:
        files = [path for path in sorted(directory.iterdir()) if SECRET_KEY.fullmatch(path.name) and path.is_file()]
        data = {path.name: path.read_text(encoding="utf-8").rstrip("\r\n") for path in files}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "a file is not UTF-8 text"
        return ParseResult(problems=(Problem(str(directory), 1, f"cannot be read: {why}", kind="Secret", key=key),))
    return ParseResult((Manifest("Secret", key, str(directory), 1, (Secret(key, data),)),))


def _is_manifest(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()
