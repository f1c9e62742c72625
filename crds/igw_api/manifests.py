"""Manifests to objects: every document is read on its own, and what is wrong with it is said in one line.

`parse` reads one text, `keep_last_good` lets a bad edit leave the running object alone, `collect` joins all files.
Pure: the standalone mode reads the files and prints the problems. `kinds` says what is understood.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from igw_api.kinds import KINDS
from igw_api.meta import ApiObject, Invalid, PathPart
from igw_api.objects import AnyObject, Key
from igw_api.objectset import NotADump, ObjectSet, dump, load
from igw_api.problems import Problem, told, wording, written
from igw_api.yamltext import MAX_BYTES, Document, Unreadable, documents

__all__ = [
    "MAX_BYTES",
    "Manifest",
    "NotADump",
    "ObjectSet",
    "ParseResult",
    "Problem",
    "collect",
    "dump",
    "keep_last_good",
    "load",
    "parse",
    "parse_data",
]

# Kinds whose names other groups use too (Knative's Service, Istio's Gateway): those are none of our business.
_NAMESAKES: Final = frozenset({"Service", "Gateway"})


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document and the internal objects it gave: one, or an EndpointList's members."""

    kind: str
    key: Key
    source: str
    line: int
    objects: tuple[AnyObject, ...]
    closed: bool = False  # the document is bad, and this is what it closes

    @property
    def identity(self) -> tuple[str, Key]:
        """What makes two documents mean the same object."""
        return self.kind, self.key


@dataclass(frozen=True, slots=True)
class ParseResult:
    """What one text gave. `ignored`: documents of kinds that mean nothing here, as `Kind namespace/name`.

    `closed`: what bad documents mean as long as nothing better is known of their objects.
    """

    manifests: tuple[Manifest, ...] = ()
    closed: tuple[Manifest, ...] = ()
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def objects(self) -> tuple[AnyObject, ...]:
        """The internal objects of all accepted documents, in their order."""
        return tuple(one for manifest in self.manifests for one in manifest.objects)


def parse(text: str, source: str) -> ParseResult:
    """All documents of `text`, YAML or JSON. Never raises: what cannot be read or accepted becomes a Problem."""
    return _parsed(documents(text), source)


def parse_data(data: Any, source: str) -> ParseResult:
    """The same for one object that is data already, as the API server sends it; its problems are all at line 1."""
    return _parsed([Document(data, 1, None, 0)], source)


def _parsed(read: Iterable[Document | Unreadable], source: str) -> ParseResult:
    manifests: dict[tuple[str, Key], Manifest] = {}
    closed: list[Manifest] = []
    problems: list[Problem] = []
    ignored: list[str] = []
    for document in read:
        for found in _read(document, source):
            if isinstance(found, str):
                ignored.append(found)
            elif isinstance(found, Problem):
                problems.append(found)
            elif found.closed:
                closed.append(found)
            elif found.identity in manifests:
                problems.append(_repeated(found, manifests[found.identity]))
            else:
                manifests[found.identity] = found
    return ParseResult(tuple(manifests.values()), tuple(closed), tuple(problems), tuple(ignored))


def _repeated(again: Manifest, first: Manifest) -> Problem:
    message = f"was already defined at {first.source}:{first.line}; remove one of them"
    return Problem(again.source, again.line, message, kind=again.kind, key=again.key)


@dataclass(frozen=True, slots=True)
class _Item:
    """One object's data, and where it stands in its document (`path` is not empty within a List)."""

    data: dict[str, Any]
    document: Document
    source: str
    path: tuple[PathPart, ...] = ()

    @property
    def kind(self) -> str:
        return str(self.data.get("kind"))

    @property
    def version(self) -> str:
        return str(self.data.get("apiVersion"))

    @property
    def key(self) -> Key | None:
        meta = self.data.get("metadata")
        name, namespace = (meta.get("name"), meta.get("namespace", "default")) if isinstance(meta, dict) else (None, "")
        if self.kind == "GatewayClass":
            namespace = ""
        return Key(namespace, name) if isinstance(name, str) and isinstance(namespace, str) else None

    def problem(self, message: str, path: tuple[PathPart, ...] = ()) -> Problem:
        line = self.document.line_of((*self.path, *path))
        return Problem(self.source, line, message, written(path), self.kind, self.key)


def _read(document: Document | Unreadable, source: str) -> Iterator[Manifest | Problem | str]:
    if isinstance(document, Unreadable):
        yield Problem(source, document.line, document.message)
        return
    for item in _items(document, source):
        if isinstance(item, Problem):
            yield item
        else:
            yield from _accept(item)


def _items(document: Document, source: str) -> Iterator[_Item | Problem]:
    data = document.data
    if not isinstance(data, dict):
        yield Problem(
            source, document.line, "is not a manifest: it must be a mapping with apiVersion, kind and metadata"
        )
        return
    whole = _Item(data, document, source)
    if not (whole.kind.endswith("List") and whole.kind not in KINDS):
        yield whole
        return
    items = data.get("items", [])
    if not isinstance(items, list):
        yield whole.problem("must be a list", ("items",))
        return
    # The API leaves kind and version out of the items of its typed lists.
    typed = {} if whole.kind == "List" else {"apiVersion": whole.version, "kind": whole.kind.removesuffix("List")}
    for index, item in enumerate(items):
        if isinstance(item, dict):
            yield _Item({**typed, **item}, document, source, ("items", index))
        else:
            yield whole.problem("must be a mapping", ("items", index))


def _accept(item: _Item) -> Iterator[Manifest | Problem | str]:
    missing = [name for name in ("apiVersion", "kind") if not isinstance(item.data.get(name), str)]
    if missing:
        yield Problem(item.source, item.document.line_of(item.path), "is required, as text", missing[0], key=item.key)
        return
    versions = KINDS.get(item.kind)
    if versions is None or (item.kind in _NAMESAKES and not _known_group(item.version, versions)):
        yield f"{item.kind} {item.key or '?'}"
        return
    model = versions.get(item.version)
    if model is None:
        message = f"{item.version} is not supported; use {' or '.join(versions)}"
        yield item.problem(message, ("apiVersion",))
        return
    yield from _converted(item, model)


def _known_group(version: str, versions: Iterable[str]) -> bool:
    return version.rpartition("/")[0] in {known.rpartition("/")[0] for known in versions}


def _converted(item: _Item, model: type[ApiObject]) -> Iterator[Manifest | Problem]:
    try:
        value = model.model_validate(item.data)
        objects = tuple(value.convert())
    except ValidationError as error:
        for one in told(error.errors(include_url=False), model):
            # Errors about a mapping's key end in this mark.
            path = tuple(part for part in one["loc"] if part != "[key]")
            yield item.problem(wording(one, model), path)
        yield from _closed(item, model)
    except Invalid as error:
        yield item.problem(error.message, error.path)
        yield from _closed(item, model)
    else:
        key = Key("" if item.kind == "GatewayClass" else value.metadata.namespace, value.metadata.name)
        yield Manifest(item.kind, key, item.source, item.document.line_of(item.path), objects)


def _closed(item: _Item, model: type[ApiObject]) -> Iterator[Manifest]:
    key = item.key
    objects = tuple(model.closed(key, item.data)) if key is not None else ()
    if key is not None and objects:
        yield Manifest(item.kind, key, item.source, item.document.line_of(item.path), objects, closed=True)


Results = Mapping[str, ParseResult]  # by source, that is, by file


def keep_last_good(previous: Results, new: Results) -> dict[str, ParseResult]:
    """`new`, plus the objects of `previous` that only a mistake has taken away.

    An object stays when its new document is bad, or when a document of its file cannot be read at all, so that nobody
    can tell whether the object is still meant to exist. The problems stay reported. `previous` shall be what this
    function returned last time. Files that are gone take their objects with them.
    """
    good = {manifest.identity for result in new.values() for manifest in result.manifests}
    problems = [problem for result in new.values() for problem in result.problems]
    bad = {(problem.kind, problem.key) for problem in problems if problem.key is not None}
    unreadable = {problem.source for problem in problems if problem.key is None}
    kept = dict(new)
    for source, result in previous.items():
        lost = tuple(
            one
            for one in result.manifests
            if one.identity not in good and (one.identity in bad or source in unreadable)
        )
        if lost:
            current = kept.get(source, ParseResult())
            kept[source] = replace(current, manifests=(*current.manifests, *lost))
    return kept


def collect(results: Results) -> tuple[ObjectSet, tuple[Problem, ...]]:
    """All files' objects as one set, and the problems of all files, with objects that two files define.

    The first file, in the order of `results`, wins such a conflict.
    """
    problems = [problem for result in results.values() for problem in result.problems]
    first: dict[tuple[type, Key], Manifest] = {}
    objects: list[AnyObject] = []
    for manifest in (one for result in results.values() for one in result.manifests):
        taken = next((first[found] for one in manifest.objects if (found := (type(one), one.key)) in first), None)
        if taken is not None:
            problems.append(_repeated(manifest, taken))
            continue
        first.update({(type(one), one.key): manifest for one in manifest.objects})
        objects.extend(manifest.objects)
    for manifest in (one for result in results.values() for one in result.closed):
        if not any((type(one), one.key) in first for one in manifest.objects):
            objects.extend(manifest.objects)
    return ObjectSet.of(objects), tuple(problems)
