"""Manifest files: which there are, what they say, and when they change.

Used by `standalone`. Only reads; the meaning of a text is `igw_api.manifests`' business.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

from watchfiles import awatch

from igw_api.manifests import ParseResult, Problem, keep_last_good, parse

FIRST_LOOK = 300  # milliseconds
SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class Unusable(Exception):
    """A path that was named on the command line cannot be read."""


class Manifests:
    """The manifests of some paths, as last read, with the last good version of objects that are bad now."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(path.absolute() for path in paths)
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
        self.results = keep_last_good(self.results, fresh)
        return self.results

    def _parse(self, path: Path) -> ParseResult:
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            # Without a key: nobody can tell what the file held, so all of it is kept.
            return ParseResult(problems=(Problem(str(path), 1, f"cannot be read: {error}"),))

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
        directories = {path if path.is_dir() else path.parent for path in self._paths}
        step = max(1, int(debounce * 1000))
        standing = False
        # The first timeout says that the watch stands: what changed before it would else never be seen.
        async for found in awatch(
            *directories,
            watch_filter=None,
            recursive=False,
            step=step,
            debounce=10 * step,
            rust_timeout=FIRST_LOOK,
            yield_on_timeout=True,
        ):
            if found or not standing:
                standing = True
                yield


def _is_manifest(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()
