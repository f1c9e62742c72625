"""Text of manifests to plain data: many documents, each with its line, each failing on its own.

YAML as Kubernetes reads it (1.1, safe types only) and JSON. No knowledge of kinds. Called by `manifests` alone.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import yaml

from igw_api.meta import PathPart

# At the start of a line this always begins a document, even within a block of text.
_SEPARATOR: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)
# Possessive: blank lines can be cut into lines in one way only, else a few dozen of them would take for ever.
_NOTHING: Final = re.compile(r"(?:[^\S\n]*+(?:#.*+|%.*+|---|\.\.\.)?+[^\S\n]*+(?:\n|\Z))*+")
# Bytes of one text: ten thousand Pods, and what libyaml reads in some seconds.
MAX_BYTES: Final = 16 * 1024 * 1024
# Of one text, aliases expanded: far more than any manifest, and few enough to stop aliases that refer to aliases from
# eating the memory.
_MAX_NODES: Final = 1_000_000
_MAX_DEPTH: Final = 100
# Python writes no number of more than 4300 digits, and a message would have to.
_MAX_DIGITS: Final = 100
_INT: Final = "tag:yaml.org,2002:int"


class Unreadable(Exception):
    """The text is not YAML. `line` counts from 1 within the whole text."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Document:
    """One document. `data` has no null entries: in Kubernetes a null field is an absent one."""

    data: Any
    line: int
    node: yaml.Node | None
    offset: int

    def line_of(self, path: Sequence[PathPart]) -> int:
        """The line of the deepest part of `path` that exists; the document's first line for an empty path."""
        node, line = self.node, self.line
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            node, mark = found
            line = self.offset + mark + 1
        return line


def documents(text: str, max_nodes: int = _MAX_NODES) -> Iterator[Document | Unreadable]:
    """Each document of `text`, or why that one cannot be read. None follows the one that exceeds `max_nodes`."""
    check = _Check(max_nodes)
    for offset, chunk in _chunks(text):
        if _NOTHING.fullmatch(chunk):
            continue
        try:
            yield from _read(chunk, offset, check)
        except Unreadable as error:
            yield error
            if check.left < 0:
                return


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Line offset and text of each document, so that a broken one does not hide those after it."""
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text) if match.start() > 0), len(text)]
    for start, end in pairwise(starts):
        yield text.count("\n", 0, start), text[start:end]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one of two bases, by build
    """Safe YAML whose timestamps stay text, as they are in JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read(chunk: str, offset: int, check: "_Check") -> Iterator[Document]:
    as_json = _json(chunk) if chunk.lstrip()[:1] in ("{", "[") else None
    try:
        _check_depth(chunk, offset)
        yield from _composed(chunk, offset, as_json, check)
    except (yaml.YAMLError, ValueError) as error:
        if as_json is None:
            raise _unreadable(error, offset) from None
        yield Document(_without_nulls(as_json), offset + 1, None, offset)


def _composed(chunk: str, offset: int, as_json: Any, check: "_Check") -> Iterator[Document]:
    loader = _Loader(chunk)
    while loader.check_node():
        node = loader.get_node()
        check.visit(node, offset)
        data = loader.construct_document(node) if as_json is None else as_json
        yield Document(_without_nulls(data), offset + _line(node) + 1, node, offset)


def _unreadable(error: Exception, offset: int) -> Unreadable:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Unreadable(offset + 1, f"is not YAML: {' '.join(str(error).split())}")
    mark = error.problem_mark or error.context_mark
    return Unreadable(offset + (mark.line if mark else 0) + 1, f"is not YAML: {error.problem}")


def _json(chunk: str) -> Any:
    """The data, if this is JSON: YAML misreads a few of its escapes. None: try YAML, whose errors say more."""
    try:
        data = json.loads(chunk)
        json.dumps(data, ensure_ascii=False).encode()  # refuses half characters such as \ud800, as Kubernetes does
        return data
    except (ValueError, RecursionError):
        return None


def _check_depth(chunk: str, offset: int) -> None:
    """Raises Unreadable for deep nesting. By events, which need no stack: libyaml's composer would overflow it."""
    depth = 0
    for event in yaml.parse(chunk, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise Unreadable(offset + _line(event) + 1, f"is nested more than {_MAX_DEPTH} deep")


def _line(part: yaml.Node | yaml.Event) -> int:
    return part.start_mark.line if part.start_mark else 0


class _Check:
    """Refuses repeated keys, which YAML libraries resolve silently, and what is without end: aliases, numbers."""

    def __init__(self, left: int) -> None:
        self.left = left

    def visit(self, node: yaml.Node, offset: int, depth: int = 0) -> None:
        """Check `node` and all below it. Raises Unreadable."""
        self.left -= 1
        if depth > 2 * _MAX_DEPTH or self.left < 0:
            raise _refusal(node, offset, "expands to too much by aliases")
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self.visit(item, offset, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            self._mapping(node, offset, depth)
        elif node.tag == _INT and len(node.value) > _MAX_DIGITS:
            raise _refusal(node, offset, f"has a number of more than {_MAX_DIGITS} digits")

    def _mapping(self, node: yaml.MappingNode, offset: int, depth: int) -> None:
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _refusal(key, offset, f"has the key {key.value[:100]!r} twice in one mapping")
                seen.add(key.value)
            self.visit(value, offset, depth + 1)


def _refusal(node: yaml.Node, offset: int, message: str) -> Unreadable:
    return Unreadable(offset + _line(node) + 1, message)


def _without_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_nulls(value) for key, value in data.items() if value is not None}
    if isinstance(data, list):
        return [_without_nulls(item) for item in data]
    return data


def _child(node: yaml.Node | None, part: PathPart) -> tuple[yaml.Node, int] | None:
    """The node under `part`, and the line (from 0) where it is named."""
    if isinstance(node, yaml.MappingNode):
        named = ((key, value) for key, value in node.value if getattr(key, "value", None) == part)
        return next(((value, _line(key)) for key, value in named), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], _line(node.value[part])
    return None
