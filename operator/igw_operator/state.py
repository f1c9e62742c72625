"""The state directory: files that other processes watch, replaced whole or not at all.

Used by `standalone` only. Every file is written beside its place and moved onto it, since Envoy and the picker react
to the move; an unchanged file is left alone, so that nobody is woken for nothing.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

LOCK_FILE = "lock"


class StateUnusable(Exception):
    """The state directory cannot be had for ourselves."""


def prepare(directory: Path) -> IO[str]:
    """The directory exists, nobody else can look into it, and no other gateway uses it. Raises StateUnusable.

    The answer is a lock: keep it open. Two gateways with one directory would overwrite each other's configuration.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        lock = (directory / LOCK_FILE).open("w")
    except OSError as error:
        raise StateUnusable(f"--state-dir {directory}: cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        message = f"--state-dir {directory}: another gateway is using it; stop that one, or choose another directory"
        raise StateUnusable(message) from None
    return lock


def replace(path: Path, content: bytes, *, private: bool = False) -> bool:
    """Put `content` at `path` by one rename. False: it was there already. Raises OSError.

    `private`: nobody else may read it, not even where the directory is opened to others.
    """
    try:
        if path.read_bytes() == content:
            return False
    except FileNotFoundError:
        pass
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666), "wb") as file:
        file.write(content)
    os.replace(fresh, path)
    return True


def replace_all(directory: Path, files: Mapping[str, str], *, private: bool = False) -> tuple[str, ...]:
    """Put all files, in their order. Returns the names of those that changed. Raises OSError."""
    return tuple(
        name for name, content in files.items() if replace(directory / name, content.encode(), private=private)
    )


def remove_others(directory: Path, keep: Iterable[str]) -> None:
    """Remove the resource files that nothing refers to any more."""
    wanted = set(keep)
    for path in (*directory.glob("*ds_*.json"), *directory.glob("tls_*.pem")):
        if path.name not in wanted:
            path.unlink(missing_ok=True)
