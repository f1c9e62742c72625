"""Text to objects and problems: each document is judged on its own, and each problem says where it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.manifests import collect, parse, parse_data
from igw_api.objects import Key
from igw_testing.manifest_texts import ALPHA, GATEWAY, V1, manifest

POOL = manifest("InferencePool", f"{ALPHA}/v1alpha2", {"selector": {"app": "a"}, "targetPortNumber": 8000})
MODEL = manifest("InferenceModel", f"{ALPHA}/v1alpha2", {"modelName": "m", "poolRef": {"name": "x"}})


def problems(text: str) -> list[str]:
    return [str(problem) for problem in parse(text, "f.yaml").problems]


def kinds(text: str) -> list[str]:
    return [one.kind for one in parse(text, "f.yaml").manifests]


def test_an_empty_text_gives_nothing() -> None:
    assert parse("", "f").objects == parse("# only a comment\n---\n---\n\n", "f").objects == ()
    assert problems("%YAML 1.1\n---\n...\n") == []


@pytest.mark.parametrize(
    "bad",
    [
        "a: [",
        "'",
        "\tx: 1",
        "a: 1\na: 2",
        "- 1",
        "just text",
        "{",
        "kind: InferencePool",
        "a: *missing",
        "&a [*a]",
        "? [1]: 2",
    ],
)
def test_a_bad_document_does_not_hide_the_good_ones(bad: str) -> None:
    text = f"{POOL}---\n{bad}\n---\n{MODEL}"
    assert kinds(text) == ["InferencePool", "InferenceModel"]
    assert len(problems(text)) == 1


def test_a_problem_names_file_line_object_field_and_remedy_on_one_line() -> None:
    """A misspelt field is one mistake: that the field it stands for is missing is not said too."""
    text = f"{POOL}---\n# why\napiVersion: {V1}\nkind: InferencePool\nmetadata:\n  name: b\n  namespace: team\nspec:\n"
    text += "  selector:\n    matchLabels: {app: b}\n  targetPorts:\n  - number: 8000\n  - numer: 8001\n"
    start = POOL.count("\n")
    assert problems(text) == [
        f"f.yaml:{start + 13}: InferencePool team/b: spec.targetPorts[1].numer: unknown field; did you mean number?",
    ]


def test_text_that_is_not_yaml_says_at_which_line() -> None:
    (problem,) = parse(f"{POOL}---\nb: 2\nb: 3\n", "f.yaml").problems
    assert str(problem) == f"f.yaml:{POOL.count(chr(10)) + 3}: has the key 'b' twice in one mapping"


def test_all_mistakes_of_a_document_are_reported_at_once() -> None:
    text = manifest("InferencePool", V1, {"selector": {}, "targetPorts": [{"number": 0}], "extra": 1})
    assert len(problems(text)) == 3


def test_an_unknown_version_of_a_known_kind_lists_the_supported_ones() -> None:
    (problem,) = problems(manifest("InferenceModel", f"{ALPHA}/v1", {}))
    assert problem.endswith(f"apiVersion: {ALPHA}/v1 is not supported; use {ALPHA}/v1alpha2 or {ALPHA}/v1alpha1")


def test_kinds_that_mean_nothing_here_are_listed_but_not_judged() -> None:
    text = "---\n".join(
        [
            manifest("Deployment", "apps/v1"),
            manifest("Service", "serving.knative.dev/v1", {"template": {}}, namespace="n"),
        ]
    )
    result = parse(text, "f")
    assert (result.ignored, result.problems) == (("Deployment default/x", "Service n/x"), ())


def test_the_same_object_twice_is_a_problem_and_the_first_stays() -> None:
    (problem,) = problems(f"{POOL}---\n{POOL}")
    second = POOL.count("\n") + 2
    assert problem == f"f.yaml:{second}: InferencePool default/x: was already defined at f.yaml:1; remove one of them"


def test_the_same_name_in_two_namespaces_is_two_objects() -> None:
    other = POOL.replace("name: x", "name: x\n  namespace: other")
    assert [one.key for one in parse(f"{POOL}---\n{other}", "f").manifests] == [Key("default", "x"), Key("other", "x")]


def test_what_kubectl_get_prints_is_accepted() -> None:
    """Managed fields, owner references, null timestamps and status do not matter."""
    meta = {
        "creationTimestamp": None,
        "generation": 2,
        "uid": "8d1f",
        "resourceVersion": "77",
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {".": {}}}}],
        "ownerReferences": [{"kind": "Any"}],
        "finalizers": ["example.com/x"],
    }
    text = manifest("InferencePool", f"{ALPHA}/v1alpha2", {"selector": {"app": "a"}, "targetPortNumber": 1}, **meta)
    assert problems(text + "status: {parent: [{conditions: []}]}\n") == []


@pytest.mark.parametrize("timestamp", ["2026-01-31T12:00:00Z", '"2026-01-31T12:00:00Z"'])
def test_a_timestamp_needs_no_quotes(timestamp: str) -> None:
    (pool,) = parse(POOL.replace("name: x", f"name: x\n  creationTimestamp: {timestamp}"), "f").manifests
    assert getattr(pool.objects[0], "created", None) == 1769860800.0


def test_lists_hold_objects_of_any_kind() -> None:
    items = f"apiVersion: v1\nkind: List\nitems:\n- {json.dumps(_data(POOL))}\n- {json.dumps(_data(MODEL))}\n- 3\n"
    assert kinds(items) == ["InferencePool", "InferenceModel"]
    assert problems(items) == ["f.yaml:6: List: items[2]: must be a mapping"]


def test_a_list_without_a_list_is_refused() -> None:
    assert problems("apiVersion: v1\nkind: List\nitems: {}\n") == ["f.yaml:3: List: items: must be a list"]
    assert problems("apiVersion: v1\nkind: List\n") == []


def test_a_time_that_is_none_is_refused() -> None:
    (problem,) = problems(POOL.replace("name: x", "name: x\n  creationTimestamp: yesterday"))
    assert problem.endswith("metadata.creationTimestamp: must be a timestamp such as 2026-01-31T12:00:00Z")


def test_items_of_the_apis_own_lists_take_their_kind_from_the_list() -> None:
    item = {name: value for name, value in _data(POOL).items() if name in ("metadata", "spec")}
    text = json.dumps({"apiVersion": f"{ALPHA}/v1alpha2", "kind": "InferencePoolList", "metadata": {}, "items": [item]})
    assert kinds(text) == ["InferencePool"]


def test_json_is_read_as_json() -> None:
    """Tabs and surrogate pairs are where YAML would differ."""
    text = json.dumps({**_data(POOL), "metadata": {"name": "x", "annotations": {"note": "\U0001f600"}}}, indent="\t")
    assert kinds(text) == ["InferencePool"]
    assert kinds(f"---\n{json.dumps(_data(POOL))}\n---\n{json.dumps(_data(MODEL))}") == [
        "InferencePool",
        "InferenceModel",
    ]


def test_an_object_from_the_api_server_is_judged_alike() -> None:
    data = _data(POOL)
    assert parse_data(data, "cluster").objects == parse(POOL, "f").objects
    (problem,) = parse_data({**data, "spec": {"selector": {"app": "a"}}}, "cluster").problems
    assert str(problem) == "cluster:1: InferencePool default/x: spec.targetPortNumber: is required"


def test_a_cluster_scoped_object_has_no_namespace() -> None:
    text = manifest("GatewayClass", GATEWAY, {"controllerName": "example.com/c"}, namespace="ignored")
    (problem,) = parse(f"{text}---\n{text}", "f").problems
    assert problem.key == Key("", "x")


def test_a_wrong_field_in_json_is_found_by_line() -> None:
    text = json.dumps({**_data(POOL), "sepc": {}}, indent=2)
    (problem,) = parse(text, "f.json").problems
    assert text.splitlines()[problem.line - 1].strip().startswith('"sepc"')


def test_aliases_work_but_may_not_explode() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    )
    (problem,) = problems(bomb)
    assert "expands to too much" in problem
    assert kinds(POOL.replace("app: a", "app: &v a\n    b: *v")) == ["InferencePool"]


@pytest.mark.parametrize("deep", ["[" * 99_999, '{"a":' * 99_999, "- " * 99_999, "? " * 99_999, "[" * 150 + "]" * 150])
def test_deep_nesting_is_refused(deep: str) -> None:
    """The libraries below would overflow the stack and end the process."""
    assert len(problems(deep)) == 1


def test_text_that_utf8_cannot_carry_is_refused() -> None:
    assert len(problems(json.dumps({**_data(POOL), "metadata": {"name": "x", "annotations": {"note": "\ud800"}}}))) == 1


def test_an_object_in_two_files_is_a_problem_of_the_second() -> None:
    objects, found = collect({"a.yaml": parse(POOL, "a.yaml"), "b.yaml": parse(f"{POOL}---\n{MODEL}", "b.yaml")})
    assert [str(problem) for problem in found] == [
        "b.yaml:1: InferencePool default/x: was already defined at a.yaml:1; remove one of them"
    ]
    assert (len(objects.pools), len(objects.models)) == (1, 1)


def test_two_endpoint_lists_may_not_name_one_endpoint() -> None:
    texts = {
        name: manifest(
            "EndpointList", "inferencegateway.io/v1alpha1", {"endpoints": [{"name": "e", "address": "::1"}]}, name=name
        )
        for name in ("a", "b")
    }
    objects, found = collect({name: parse(text, name) for name, text in texts.items()})
    assert (len(objects.members), len(found)) == (1, 1)


@given(st.text(max_size=200))
def test_no_text_at_all_makes_the_parser_raise(text: str) -> None:
    for problem in parse(text, "f").problems:
        assert "\n" not in str(problem)


@given(
    st.lists(
        st.sampled_from(
            [
                "---\n",
                "a: 1\n",
                "kind: List\n",
                "items: [{}]\n",
                "{",
                "}",
                "\t",
                "&a ",
                "*a",
                "- ",
                "\r\n",
                "? ",
                "!!x ",
            ]
        )
    )
)
def test_no_mixture_of_yaml_makes_the_parser_raise(pieces: list[str]) -> None:
    parse("".join(pieces), "f")


def _data(text: str) -> dict[str, object]:
    import yaml

    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data
