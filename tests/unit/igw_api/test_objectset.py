"""Sets of objects: merging, and the file that hands them to the picker."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.objects import (
    AnyObject,
    Gateway,
    GatewayClass,
    Key,
    Member,
    Model,
    Objective,
    Policy,
    Pool,
    Rewrite,
    Route,
    Service,
)
from igw_api.objectset import NotADump, ObjectSet, dump, load

KINDS: tuple[type[AnyObject], ...] = (
    Pool,
    Model,
    Objective,
    Rewrite,
    Policy,
    Member,
    Service,
    GatewayClass,
    Gateway,
    Route,
)

NAMES = st.text(max_size=8)
LEAVES: dict[object, st.SearchStrategy[Any]] = {
    float: st.floats(allow_nan=False, allow_infinity=False),
    Mapping[str, str]: st.dictionaries(NAMES, NAMES, max_size=3),
    Mapping[int, int]: st.dictionaries(st.integers(), st.integers(), max_size=3),
}


def values(type_: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that objects are made of, whether or not it makes sense."""
    if type_ in LEAVES:
        return LEAVES[type_]
    if isinstance(type_, type) and is_dataclass(type_):
        return st.builds(type_, **{name: values(hint) for name, hint in get_type_hints(type_).items()})
    match get_origin(type_), get_args(type_):
        case (origin, (item, end)) if origin is tuple and end is Ellipsis:
            return st.lists(values(item), max_size=3).map(tuple)
        case (origin, items) if origin is tuple:
            return st.tuples(*map(values, items))
        case (origin, options) if origin in (Union, UnionType):
            return st.one_of([values(option) for option in options])
    return st.from_type(type_)


def objects() -> st.SearchStrategy[ObjectSet]:
    return st.lists(st.one_of([values(kind) for kind in KINDS]), max_size=4).map(ObjectSet.of)


@given(objects())
def test_what_is_dumped_is_loaded_exactly(original: ObjectSet) -> None:
    again = load(dump(original))
    assert again == original
    assert [type(one) for one in again.objects()] == [type(one) for one in original.objects()]
    assert dump(again) == dump(original)


@given(objects())
def test_the_order_of_arrival_does_not_change_the_dump(original: ObjectSet) -> None:
    assert dump(ObjectSet.of(reversed(original.objects()))) == dump(original)


@given(objects(), objects())
def test_merging_keeps_every_key_and_prefers_the_other(one: ObjectSet, other: ObjectSet) -> None:
    merged = one.merge(other)
    assert set(merged.pools) == set(one.pools) | set(other.pools)
    assert all(merged.pools[key] == pool for key, pool in other.pools.items())


def test_objects_of_different_kinds_may_share_a_key() -> None:
    key = Key("default", "x")
    found = ObjectSet.of([Pool(key, {"a": "b"}, (1,)), Service(key, {}, {80: 8080})])
    assert (found.pools[key].target_ports, found.services[key].ports) == ((1,), {80: 8080})


@pytest.mark.parametrize("data", [b"", b"[]", b"kind: InferencePool\n", b'{"version": 1}', b"\xff"])
def test_anything_else_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(NotADump):
        load(data)


def test_another_format_version_is_refused_by_number() -> None:
    with pytest.raises(NotADump, match="format 2; this program reads 1"):
        load(dump(ObjectSet()).replace(b'"version": 1', b'"version": 2'))
