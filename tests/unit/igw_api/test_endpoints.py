"""Where engines are: EndpointList, Pod and Service; and which endpoints a pool gets from them."""

from typing import Any

import pytest

from igw_api.manifests import parse
from igw_api.objects import Key, Member, Pool, Service, addresses
from igw_testing.manifest_texts import accepted, manifest, refusals

ACTIVE_PORTS = "inference.networking.k8s.io/active-ports"


def endpoint_list(*endpoints: dict[str, Any], **spec: Any) -> str:
    return manifest("EndpointList", "inferencegateway.io/v1alpha1", {"endpoints": list(endpoints), **spec}, name="gpus")


def pod(status: dict[str, Any], **metadata: Any) -> str:
    return manifest("Pod", "v1", {"containers": []}, labels={"app": "vllm"}, **metadata) + f"status: {status}\n"


def pool(*ports: int) -> Pool:
    return Pool(Key("default", "pool"), {"app": "vllm"}, ports)


def test_each_entry_is_a_member_with_the_lists_labels_under_its_own() -> None:
    text = endpoint_list(
        {"address": "10.0.0.1", "name": "a100", "port": 8001, "labels": {"role": "prefill"}, "annotations": {"k": "v"}},
        {"address": "10.0.0.2"},
        labels={"app": "vllm", "role": "both"},
    )
    assert parse(text, "x").objects == (
        Member(Key("default", "a100"), "10.0.0.1", 8001, {"app": "vllm", "role": "prefill"}, {"k": "v"}),
        Member(Key("default", "gpus-10.0.0.2"), "10.0.0.2", None, {"app": "vllm", "role": "both"}),
    )


def test_removing_an_entry_does_not_rename_the_others() -> None:
    both = parse(endpoint_list({"address": "10.0.0.1"}, {"address": "10.0.0.2"}), "x").objects
    assert parse(endpoint_list({"address": "10.0.0.2"}), "x").objects == both[1:]


def test_ipv6_addresses_are_written_one_way() -> None:
    assert accepted(endpoint_list({"address": "FD00:0::1"}), Member).address == "fd00::1"


@pytest.mark.parametrize(
    ("entries", "refusal"),
    [
        (
            [{"address": "gpu-1"}],
            "spec.endpoints[0].address: must be an IP address (host names are not resolved), not 'gpu-1'",
        ),
        ([{"address": "1.2.3.256"}], "spec.endpoints[0].address: must be an IP address, version 4 or 6"),
        ([{"address": "::1"}, {"address": "0::1"}], "spec.endpoints: endpoint ::1 occurs twice"),
        (
            [{"address": "1.1.1.1", "name": "a"}, {"address": "1.1.1.2", "name": "a"}],
            "spec.endpoints[1].name: 'a' occurs twice",
        ),
        (
            [{"adress": "1.1.1.1", "address": "1.1.1.1"}],
            "spec.endpoints[0].adress: unknown field; did you mean address?",
        ),
    ],
)
def test_each_mistake_in_a_list_names_its_entry(entries: list[dict[str, Any]], refusal: str) -> None:
    assert refusals(endpoint_list(*entries)) == [refusal]


READY = {"type": "Ready", "status": "True"}


@pytest.mark.parametrize(
    ("conditions", "metadata", "ready"),
    [
        ([READY], {}, True),
        ([{"type": "Ready", "status": "False"}], {}, False),
        ([], {}, False),
        ([READY], {"deletionTimestamp": "2026-01-01T00:00:00Z"}, False),
    ],
    ids=["ready", "not ready", "unknown", "being deleted"],
)
def test_a_pod_is_a_member_and_ready_as_it_says(conditions: list[Any], metadata: dict[str, Any], ready: bool) -> None:
    found = accepted(pod({"podIP": "10.0.0.9", "phase": "Running", "conditions": conditions}, **metadata), Member)
    assert found == Member(Key("default", "x"), "10.0.0.9", None, {"app": "vllm"}, ready=ready)


def test_a_pod_that_does_not_run_yet_is_refused() -> None:
    assert refusals(pod({})) == ["status.podIP: is missing: only a running Pod can serve; or use an EndpointList"]


def test_a_service_maps_its_tcp_ports() -> None:
    spec = {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.1",
        "selector": {"app": "web"},
        "ports": [{"port": 80, "targetPort": 8080, "name": "http"}, {"port": 81}, {"port": 53, "protocol": "UDP"}],
    }
    assert accepted(manifest("Service", "v1", spec), Service) == Service(
        Key("default", "x"), {"app": "web"}, {80: 8080, 81: 81}
    )


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (
            {"ports": [{"port": 80, "targetPort": "http"}]},
            "spec.ports[0].targetPort: 'http': names are not supported in standalone mode; use a number",
        ),
        ({"externalName": "example.com"}, "spec.externalName: not supported in standalone mode; remove it"),
    ],
)
def test_a_service_that_standalone_mode_cannot_resolve_is_refused(spec: dict[str, Any], refusal: str) -> None:
    assert refusals(manifest("Service", "v1", spec)) == [refusal]


def test_every_target_port_of_a_selected_member_is_an_endpoint() -> None:
    member = Member(Key("default", "m"), "10.0.0.1", labels={"app": "vllm", "extra": "x"})
    assert addresses(pool(8000, 8001), member) == ("10.0.0.1:8000", "10.0.0.1:8001")


def test_a_members_own_port_replaces_the_pools() -> None:
    assert addresses(pool(8000, 8001), Member(Key("default", "m"), "::1", 9000, {"app": "vllm"})) == ("[::1]:9000",)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("8001", ("10.0.0.1:8001",)),
        (" 8000 , 8001 ", ("10.0.0.1:8000", "10.0.0.1:8001")),
        ("", ()),
        ("all", ()),
        ("9", ()),
    ],
)
def test_active_ports_leave_only_the_ports_that_they_list(annotation: str, expected: tuple[str, ...]) -> None:
    """Absent means all; empty or senseless means none (the extension's rule for data parallel ranks)."""
    member = Member(Key("default", "m"), "10.0.0.1", labels={"app": "vllm"}, annotations={ACTIVE_PORTS: annotation})
    assert addresses(pool(8000, 8001), member) == expected


def test_a_member_with_other_labels_gives_the_pool_nothing() -> None:
    assert addresses(pool(8000), Member(Key("default", "m"), "10.0.0.1", labels={"app": "other"})) == ()
    assert addresses(Pool(Key("a", "b"), {}, (1,)), Member(Key("a", "m"), "10.0.0.1")) == ()
