"""The state directory: files that other processes watch, replaced whole or not at all.

Used by `standalone` only. Every file is written beside its place and moved onto it, since Envoy and the picker react
to the move; an unchanged file is left alone, so that nobody is woken for nothing.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def prepare(directory: Path) -> None:
    """The directory exists and nobody else can look into it. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)


def replace(path: Path, content: bytes) -> bool:
    """Put `content` at `path` by one rename. False: it was there already. Raises OSError."""
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
    return True


def replace_all(directory: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Put all files, in their order. Returns the names of those that changed. Raises OSError."""
    return tuple(name for name, content in files.items() if replace(directory / name, content.encode()))


def remove_others(directory: Path, keep: Iterable[str]) -> None:
    """Remove the resource files that nothing refers to any more."""
    wanted = set(keep)
    for path in directory.glob("*ds_*.json"):
        if path.name not in wanted:
            path.unlink(missing_ok=True)
