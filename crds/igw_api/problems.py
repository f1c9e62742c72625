"""What is wrong with a manifest, in one line that says where it is and what to do.

Turns pydantic's errors into the words of someone who writes YAML. No parsing here; `manifests` makes the problems,
the command line and the operator's conditions print them.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from igw_api import meta
from igw_api.meta import PathPart
from igw_api.objects import Key


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. `kind` and `key` are None where the text did not say whose it is.

    `str()` gives `file:line: Kind namespace/name: path: message`, on one line.
    """

    source: str
    line: int
    message: str
    path: str = ""
    kind: str | None = None
    key: Key | None = None

    def __str__(self) -> str:
        whose = " ".join(str(part) for part in (self.kind, self.key) if part is not None)
        parts = (f"{self.source}:{self.line}", whose, self.path, self.message)
        return ": ".join(part for part in parts if part)


def written(path: Iterable[PathPart]) -> str:
    """`spec.ports[0].number`; keys that hold dots or slashes in brackets: `annotations[example.com/x]`."""
    text = ""
    for part in path:
        plain = isinstance(part, str) and not any(mark in part for mark in "./ ")
        text += f".{part}" if plain else f"[{part}]"
    return text.removeprefix(".")


def told(errors: Iterable[ErrorDetails], model: type[BaseModel]) -> list[ErrorDetails]:
    """The errors worth telling: where a misspelt field says what it was meant to be, that field is not also missing."""
    errors = list(errors)
    meant = {(*error["loc"][:-1], _meant(error, model)) for error in errors if error["type"] == "extra_forbidden"}
    return [error for error in errors if error["type"] != "missing" or error["loc"] not in meant]


def wording(error: ErrorDetails, model: type[BaseModel]) -> str:
    """The message for one error of validating `model`."""
    say = _SAYINGS.get(error["type"])
    if say is not None:
        return say(error, model)
    return error["msg"][:1].lower() + error["msg"][1:]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _must(what: str) -> Callable[[ErrorDetails, type[BaseModel]], str]:
    return lambda error, _model: f"must be {what.format(**error.get('ctx', {}))}, not {_shown(error['input'])}"


def _unknown_field(error: ErrorDetails, model: type[BaseModel]) -> str:
    meant = _meant(error, model)
    if meant is not None:
        return f"unknown field; did you mean {meant}?"
    return f"unknown field; remove it (known: {', '.join(_fields(model, error['loc'][:-1]))})"


def _meant(error: ErrorDetails, model: type[BaseModel]) -> str | None:
    """The known field that an unknown one looks like."""
    *parents, name = error["loc"]
    by_case = {one.lower(): one for one in _fields(model, parents)}
    close = difflib.get_close_matches(str(name).lower(), by_case, n=1)
    return by_case[close[0]] if close else None


_PATTERNS: Final[Mapping[str, str]] = {
    meta.NAME_PATTERN: "a name of lower case letters, digits, - and .",
    meta.NAMESPACE_PATTERN: "a name of lower case letters, digits and -",
    meta.ADDRESS_PATTERN: "an IP address (host names are not resolved)",
    meta.GROUP_PATTERN: "an API group such as example.com",
    meta.KIND_PATTERN: "a kind such as Service",
    meta.LABEL_KEY_PATTERN: "a label name such as app or example.com/app",
    meta.LABEL_VALUE_PATTERN: "a label value of letters, digits, -, _ and .",
}


def _pattern(error: ErrorDetails, _model: type[BaseModel]) -> str:
    pattern = error["ctx"]["pattern"]
    return f"must be {_PATTERNS.get(pattern, f'text that matches {pattern}')}, not {_shown(error['input'])}"


def _string(error: ErrorDetails, _model: type[BaseModel]) -> str:
    hint = "; put it in quotes" if isinstance(error["input"], bool | int | float) else ""
    return f"must be text, not {_shown(error['input'])}{hint}"


def _count(error: ErrorDetails, word: str, limit: str) -> str:
    number = error["ctx"][limit]
    return f"must have at {word} {number} {'entry' if number == 1 else 'entries'}, not {error['ctx']['actual_length']}"


_SAYINGS: Final[Mapping[str, Callable[[ErrorDetails, type[BaseModel]], str]]] = {
    "missing": lambda _error, _model: "is required",
    "extra_forbidden": _unknown_field,
    "string_type": _string,
    "string_pattern_mismatch": _pattern,
    "string_too_long": _must("at most {max_length} characters"),
    "string_too_short": _must("at least {min_length} characters"),
    "int_type": _must("a whole number"),
    "bool_type": _must("true or false"),
    "list_type": _must("a list"),
    "dict_type": _must("a mapping"),
    "model_type": _must("a mapping"),
    "literal_error": _must("one of {expected}"),
    "greater_than_equal": _must("at least {ge}"),
    "less_than_equal": _must("at most {le}"),
    "too_short": lambda error, _model: _count(error, "least", "min_length"),
    "too_long": lambda error, _model: _count(error, "most", "max_length"),
}


def _fields(model: type[BaseModel], parents: Iterable[PathPart]) -> list[str]:
    """The field names that are known at `parents` below `model`."""
    here: Any = model
    for part in parents:
        if isinstance(part, int):
            continue  # a list's items have the type that the list's annotation leads to
        fields = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
        here = _model_in(fields.get(str(part)))
        if here is None:
            return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) not in (Annotated, Union, UnionType, list):
        return None
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((one for one in found if one is not None), None)
