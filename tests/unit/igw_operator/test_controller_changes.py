"""What differs between what is rendered and what is live, and in which order it is written."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from igw_api.objects import Key
from igw_api.wire import MANAGED_BY, MANAGED_BY_LABEL
from igw_operator.controller.changes import HASH_ANNOTATION, Settled, find_changes, lacks, stamped
from igw_operator.controller.resources import BY_KIND
from igw_operator.controller.store import Body, View
from igw_operator.render.envoy_gateway.manifests import SLICE_MAKER_LABEL
from igw_operator.render.envoy_gateway.values import Phase, Rendered

OURS = {MANAGED_BY_LABEL: MANAGED_BY}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def manifest(kind: str, name: str = "x", **rest: Any) -> Body:
    return {"kind": kind, "metadata": {"name": name, "namespace": "ns", "labels": dict(OURS)}, **rest}


def live(*bodies: Body) -> View:
    """These objects as the API server has them after they were applied."""
    objects: dict[Any, dict[Key, Body]] = {}
    for number, body in enumerate(bodies):
        meta = {**body["metadata"], "uid": f"u{number}", "resourceVersion": "1"}
        objects.setdefault(BY_KIND[body["kind"]], {})[Key("ns", meta["name"])] = {**body, "metadata": meta}
    return View(objects)


def test_an_object_that_is_as_it_was_rendered_is_not_written() -> None:
    """What others added to it does not matter."""
    body = stamped(manifest("ConfigMap", data={"a": "b"}))
    there = live({**body, "data": {"a": "b", "theirs": "c"}})
    assert not find_changes([Rendered(Phase.FOUNDATION, manifest("ConfigMap", data={"a": "b"}))], there, Settled())


def test_a_field_that_is_no_longer_rendered_is_a_change() -> None:
    """The hash tells: the live object has all that is rendered now, and more of ours."""
    there = live(stamped(manifest("ConfigMap", data={"a": "b", "c": "d"})))
    changes = find_changes([Rendered(Phase.FOUNDATION, manifest("ConfigMap", data={"a": "b"}))], there, Settled())
    assert [one.identity for one in changes.applications] == [("ConfigMap", Key("ns", "x"))]
    assert changes.applications[0].known


def test_an_object_without_our_label_is_neither_known_nor_deleted() -> None:
    """Whether it may be written is asked again before the write."""
    stranger = stamped(manifest("ConfigMap"))
    stranger["metadata"]["labels"] = {}
    assert not find_changes([], live(stranger), Settled())
    [one] = find_changes([Rendered(Phase.FOUNDATION, manifest("ConfigMap"))], live(stranger), Settled()).applications
    assert not one.known


def test_what_controllers_derive_from_our_objects_is_not_deleted() -> None:
    """They copy the label, as the EndpointSlice controller does, and one of them the annotation as well."""
    assert not find_changes([], live(manifest("EndpointSlice")), Settled())
    mirrored, ours = stamped(manifest("EndpointSlice")), stamped(manifest("EndpointSlice", "y"))
    mirrored["metadata"]["labels"][SLICE_MAKER_LABEL] = "endpointslicemirroring-controller.k8s.io"
    ours["metadata"]["labels"][SLICE_MAKER_LABEL] = MANAGED_BY
    [deletion] = find_changes([], live(mirrored, ours), Settled()).deletions
    assert deletion.key.name == "y"


def test_what_waits_is_neither_applied_nor_deleted() -> None:
    """It stays as it is until what it needs is known."""
    there = live(stamped(manifest("HTTPRoute", "old")))
    waiting = [Rendered(Phase.ROUTE, manifest("HTTPRoute", name), waits=True) for name in ("old", "new")]
    assert not find_changes(waiting, there, Settled())


def test_what_is_being_deleted_is_left_until_it_is_gone() -> None:
    """It is applied anew then."""
    leaving = stamped(manifest("ConfigMap"))
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not find_changes([Rendered(Phase.FOUNDATION, manifest("ConfigMap"))], live(leaving), Settled())
    assert not find_changes([], live(leaving), Settled())


def test_routes_are_applied_last_and_deleted_first() -> None:
    """A policy that comes after its route changes a running cluster, which takes Envoy long."""
    phases = {
        "HTTPRoute": Phase.ROUTE,
        "Deployment": Phase.FOUNDATION,
        "RoleBinding": Phase.FOUNDATION,
        "EnvoyExtensionPolicy": Phase.LISTENER_POLICY,
        "Service": Phase.FOUNDATION,
        "BackendTrafficPolicy": Phase.BACKEND_POLICY,
    }
    order = ["Service", "RoleBinding", "Deployment", "BackendTrafficPolicy", "EnvoyExtensionPolicy", "HTTPRoute"]
    rendered = [Rendered(phase, manifest(kind)) for kind, phase in phases.items()]
    applied = find_changes(rendered, View(), Settled()).applications
    assert [one.resource.kind for one in applied] == order
    deleted = find_changes([], live(*(stamped(manifest(kind)) for kind in phases)), Settled()).deletions
    assert [one.resource.kind for one in deleted] == order[::-1]


def test_what_the_server_writes_differently_counts_as_rendered_once_it_has_answered() -> None:
    """Quantities, for one. A later edit of the same field is drift again."""
    wanted = manifest("Deployment", spec={"cpu": "1000m"})
    asked, settled = stamped(wanted), Settled()
    answer = {**asked, "spec": {"cpu": "1"}}
    rendered = [Rendered(Phase.FOUNDATION, wanted)]
    assert find_changes(rendered, live(answer), settled)
    settled.remember(("Deployment", Key("ns", "x")), asked, answer)
    assert not find_changes(rendered, live(answer), settled)
    assert find_changes(rendered, live({**answer, "spec": {"cpu": "2"}}), settled)


@given(VALUES)
def test_nothing_lacks_what_it_is(value: Any) -> None:
    """For every JSON value."""
    assert not lacks(value, value)


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=3))
def test_the_hash_does_not_depend_on_the_order_of_keys(rest: dict[str, Any]) -> None:
    """Renderers may build mappings in any order."""
    one = stamped(manifest("ConfigMap", data=rest))
    other = stamped(manifest("ConfigMap", data=dict(reversed(rest.items()))))
    assert one["metadata"]["annotations"][HASH_ANNOTATION] == other["metadata"]["annotations"][HASH_ANNOTATION]
