"""Images: which files, command and user a name stands for, read from the images file; and builders for that file.

No layers are fetched or unpacked: an image is folders of this machine. The format is described in the package.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageError(Exception):
    """An image that is not there, or that the file describes wrongly; the message is for the Pod's event."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A live view of the machine's `source` at `target`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """One entry of the images file; the fields are those of the format."""

    layers: tuple[str, ...]
    hide: tuple[str, ...] = ()
    directories: dict[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""
    init: bool = False

    def problem(self) -> str:
        """Why no container can be made of it on this machine; nothing if one can."""
        if not self.layers:
            return "it has no layers"
        for path in (*self.layers, *(bind.source for bind in self.binds)):
            if not path.startswith("/") or not os.path.exists(path):
                return f"{path} is no absolute path of something that exists"
        awkward = [path for path in self.layers if set(path) & set(":,\\")]
        return f"overlayfs takes no layer named {awkward[0]}" if awkward else ""


def parse(name: str, entry: Mapping[str, Any]) -> Image:
    """An entry as read from JSON; raises ImageError for unknown or missing fields and for modes that are not octal."""
    unknown = sorted(entry.keys() - {known.name for known in fields(Image)})
    if unknown or "layers" not in entry:
        raise ImageError(f"image {name}: unknown {', '.join(unknown)}" if unknown else f"image {name}: no layers")
    try:
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        given["binds"] = tuple(Bind(**bind) for bind in entry.get("binds", ()))
        made = Image(**given)
        for mode in made.directories.values():
            int(mode, 8)
    except (TypeError, ValueError) as error:
        raise ImageError(f"image {name}: {error}") from None
    return made


def repository(name: str) -> str:
    """The name without tag and digest: `host:5000/a/b:1` -> `host:5000/a/b`."""
    plain = name.partition("@")[0]
    head, slash, last = plain.rpartition("/")
    return head + slash + last.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Found:
    """An image with its name in the file and its id, which changes when the entry does."""

    name: str
    id: str
    image: Image


class ImageFile:
    """The images file, read anew when it has changed. Safe for threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._read_at: tuple[int, int] | None = None
        self._by_name: dict[str, Found] = {}

    def all(self) -> list[Found]:
        """All images of the file; raises ImageError if the file cannot be read."""
        return list(self._current().values())

    def find(self, reference: str) -> Found | None:
        """The image for a name, exactly or by its repository, or for an id."""
        images = self._current()
        by_id = next((found for found in images.values() if found.id == reference), None)
        return by_id or images.get(reference) or images.get(repository(reference))

    def pull(self, reference: str) -> Found:
        """The image if containers can be made of it; raises ImageError otherwise."""
        found = self.find(reference)
        if found is None:
            raise ImageError(f"the test cluster has no image {reference}; known: {', '.join(sorted(self._current()))}")
        if problem := found.image.problem():
            raise ImageError(f"image {reference}: {problem}")
        return found

    def _current(self) -> dict[str, Found]:
        with self._lock:
            try:
                stat = self._path.stat()
                version = (stat.st_mtime_ns, stat.st_ino)
                if version != self._read_at:
                    self._by_name = load(self._path.read_text(encoding="utf-8"))
                    self._read_at = version
            except (OSError, ValueError) as error:
                raise ImageError(f"images file: {error}") from None
            return dict(self._by_name)


def load(text: str) -> dict[str, Found]:
    """The file's text as images by name."""
    found = {}
    for name, entry in json.loads(text).items():
        image = parse(name, entry)
        identity = hashlib.sha256(json.dumps([name, asdict(image)], sort_keys=True).encode()).hexdigest()
        found[name] = Found(name, f"sha256:{identity}", image)
    return found


def write_images(path: Path, images: Mapping[str, Image]) -> None:
    """Writes the images file in one step, so that a runtime that reads it meanwhile sees the old or the new one."""
    text = json.dumps({name: asdict(image) for name, image in images.items()}, indent=2)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def host_image(
    entrypoint: Sequence[str],
    *,
    cmd: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    user: str = "",
    binds: Sequence[Bind] = (),
    init: bool = False,
) -> Image:
    """An image of this machine's own root, without its homes, temporary files and sockets; `binds` on top.

    The parents of a bind's target are made with mode 0755, so a bind of a folder inside somebody's home (mode 0700)
    can be read by every user of the container, and nothing else of that home is there.
    """
    return Image(
        layers=("/",),
        hide=("/root", "/home", "/run", "/tmp", "/var/tmp"),
        directories={"/tmp": "1777", "/var/tmp": "1777"},
        binds=tuple(binds),
        env={"PATH": DEFAULT_PATH, **(env or {})},
        entrypoint=tuple(entrypoint),
        cmd=tuple(cmd),
        user=user,
        init=init,
    )


def python_binds() -> tuple[Bind, ...]:
    """What the interpreter that runs this needs in an image: its installation and its virtual environment."""
    prefixes = dict.fromkeys(os.path.realpath(path) for path in (sys.base_prefix, sys.prefix))
    return tuple(Bind(path, path) for path in prefixes if not path.startswith("/usr"))
