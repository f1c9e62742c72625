"""A bad edit must not take away what runs."""

from igw_api.manifests import ParseResult, collect, keep_last_good, parse
from igw_api.objects import Key
from igw_testing.manifest_texts import ALPHA, manifest

X = Key("default", "x")
Y = Key("default", "y")


def pool(name: str, port: object = 8000) -> str:
    return manifest(
        "InferencePool", f"{ALPHA}/v1alpha2", {"selector": {"app": "a"}, "targetPortNumber": port}, name=name
    )


def files(**texts: str) -> dict[str, ParseResult]:
    return {name: parse(text, name) for name, text in texts.items()}


def ports(results: dict[str, ParseResult]) -> dict[Key, int]:
    return {key: found.target_ports[0] for key, found in collect(results)[0].pools.items()}


def test_an_object_whose_new_text_is_bad_keeps_its_old_value_and_the_problem_is_reported() -> None:
    before = files(a=f"{pool('x', 1)}---\n{pool('y', 2)}")
    after = keep_last_good(before, files(a=f"{pool('x', 'bad')}---\n{pool('y', 3)}"))
    assert ports(after) == {X: 1, Y: 3}
    assert [problem.key for problem in collect(after)[1]] == [X]


def test_an_object_that_is_removed_is_gone() -> None:
    after = keep_last_good(files(a=f"{pool('x')}---\n{pool('y')}", b=pool("z")), files(a=pool("y")))
    assert list(ports(after)) == [Y]


def test_an_unreadable_document_keeps_all_objects_of_its_file_but_none_of_others() -> None:
    before = files(a=f"{pool('x', 1)}---\n{pool('y', 2)}", b=pool("z"))
    after = keep_last_good(before, files(a=f"a: [\n---\n{pool('y', 3)}", b=""))
    assert ports(after) == {X: 1, Y: 3}


def test_the_last_good_value_survives_any_number_of_bad_edits() -> None:
    results = keep_last_good({}, files(a=pool("x", 1)))
    for text in (pool("x", 0), "a: [", pool("x", "p")):
        results = keep_last_good(results, files(a=text))
        assert ports(results) == {X: 1}
    assert ports(keep_last_good(results, files(a=pool("x", 2)))) == {X: 2}
    assert ports(keep_last_good(results, files(a=""))) == {}


def test_an_object_that_was_never_good_is_not_made_up() -> None:
    assert ports(keep_last_good(files(a=pool("x", 0)), files(a=pool("x", -1)))) == {}


def test_an_object_that_moves_to_another_file_while_bad_stays_until_it_is_good_there() -> None:
    moved = keep_last_good(files(a=pool("x", 1)), files(b=pool("x", 0)))
    assert ports(moved) == {X: 1}
    assert ports(keep_last_good(moved, files(b=pool("x", 2)))) == {X: 2}
