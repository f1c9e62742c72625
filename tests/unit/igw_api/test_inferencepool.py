"""InferencePool of all versions, and its attach-to annotation."""

from typing import Any

import pytest

from igw_api.objects import AttachTo, FailureMode, Key, Pool
from igw_testing.manifest_texts import ALPHA, V1, accepted, manifest, refusals

ATTACH_TO = "inference.networking.x-k8s.io/attach-to"


def v1_pool(*, ports: tuple[int, ...] = (8000,), meta: dict[str, Any] | None = None, **spec: Any) -> str:
    """A v1 InferencePool; None removes a field."""
    fields = {
        "selector": {"matchLabels": {"app": "vllm"}},
        "targetPorts": [{"number": port} for port in ports],
        "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        **spec,
    }
    return manifest(
        "InferencePool", V1, {name: value for name, value in fields.items() if value is not None}, **(meta or {})
    )


def alpha_pool(version: str = "v1alpha2", *, meta: dict[str, Any] | None = None, **spec: Any) -> str:
    """An InferencePool of an alpha version."""
    fields = {"selector": {"app": "vllm"}, "targetPortNumber": 8000, "extensionRef": {"name": "picker"}, **spec}
    return manifest("InferencePool", f"{ALPHA}/{version}", fields, **(meta or {}))


def attached(text: str) -> str:
    return v1_pool(meta={"namespace": "team", "annotations": {ATTACH_TO: text}})


def test_all_versions_of_one_pool_become_the_same_object() -> None:
    expected = Pool(key=Key("default", "x"), selector={"app": "vllm"}, target_ports=(8000,), picker="picker")
    assert accepted(v1_pool(), Pool) == expected
    assert accepted(alpha_pool("v1alpha2"), Pool) == expected
    assert accepted(alpha_pool("v1alpha1"), Pool) == expected


def test_every_target_port_is_kept_in_order() -> None:
    assert accepted(v1_pool(ports=(8001, 8000, 8002)), Pool).target_ports == (8001, 8000, 8002)


@pytest.mark.parametrize("field", ["portNumber", "targetPortNumber"])
def test_both_alpha_names_of_the_picker_port_are_understood(field: str) -> None:
    assert accepted(alpha_pool(extensionRef={"name": "picker", field: 9100}), Pool).picker_port == 9100


def test_a_pool_without_a_picker_reference_uses_the_gateways_own_and_fails_open() -> None:
    pool = accepted(v1_pool(endpointPickerRef=None), Pool)
    assert (pool.picker, pool.failure_mode) == (None, FailureMode.OPEN)


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, FailureMode.OPEN),
        ({"failureMode": "FailOpen"}, FailureMode.OPEN),
        ({"failureMode": "FailClose"}, FailureMode.CLOSE),
    ],
    ids=["unset", "open", "close"],
)
def test_unset_failure_mode_is_open_and_an_explicit_one_is_honoured(
    version: str, written: dict[str, str], expected: FailureMode
) -> None:
    """Losing the picker must not cost a request of users who never heard of failureMode."""
    if version == "v1":
        text = v1_pool(endpointPickerRef={"name": "picker", "port": {"number": 9002}, **written})
    else:
        text = alpha_pool(extensionRef={"name": "picker", **written})
    assert accepted(text, Pool).failure_mode is expected


def test_app_protocol_defaults_to_http_and_may_be_h2c() -> None:
    assert accepted(v1_pool(), Pool).app_protocol == "http"
    assert accepted(v1_pool(appProtocol="kubernetes.io/h2c"), Pool).app_protocol == "kubernetes.io/h2c"


def test_creation_time_is_seconds_since_the_epoch_and_zero_for_files() -> None:
    assert accepted(v1_pool(meta={"creationTimestamp": "1970-01-01T00:01:00Z"}), Pool).created == 60.0
    assert accepted(v1_pool(), Pool).created == 0.0


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        ({"ports": (8000, 8000)}, "spec.targetPorts: port number 8000 occurs twice"),
        ({"ports": ()}, "spec.targetPorts: must have at least 1 entry, not 0"),
        ({"ports": tuple(range(1, 10))}, "spec.targetPorts: must have at most 8 entries, not 9"),
        ({"ports": (65536,)}, "spec.targetPorts[0].number: must be at most 65535, not 65536"),
        ({"targetPorts": [{"number": "8000"}]}, "spec.targetPorts[0].number: must be a whole number, not '8000'"),
        ({"targetPorts": None}, "spec.targetPorts: is required"),
        ({"selector": {"matchLabels": {}}}, "spec.selector.matchLabels: must have at least 1 entry, not 0"),
        ({"selector": {"app": "vllm"}}, "spec.selector.matchLabels: is required"),
        ({"appProtocol": "grpc"}, "spec.appProtocol: must be one of 'http' or 'kubernetes.io/h2c', not 'grpc'"),
        ({"targetPort": 80}, "spec.targetPort: unknown field; did you mean targetPorts?"),
        (
            {"endpointPickerRef": {"name": "p", "port": {"number": 1}, "failuremode": "FailOpen"}},
            "spec.endpointPickerRef.failuremode: unknown field; did you mean failureMode?",
        ),
        ({"endpointPickerRef": {"name": "p"}}, "spec.endpointPickerRef.port: is required when kind is Service"),
        (
            {"endpointPickerRef": {"name": "p", "group": "example.com"}},
            "spec.endpointPickerRef.group: must be \"\" (a Service), not 'example.com'",
        ),
        (
            {"targetPorts": [{"number": 1, "protocol": "TCP"}]},
            "spec.targetPorts[0].protocol: unknown field; remove it (known: number)",
        ),
        (
            {"endpointPickerRef": {"name": "p", "kind": "Deployment"}},
            "spec.endpointPickerRef.kind: must be Service, not Deployment",
        ),
        (
            {"selector": {"matchLabels": {"tier": 1}}},
            "spec.selector.matchLabels.tier: must be text, not 1; put it in quotes",
        ),
    ],
)
def test_each_mistake_names_its_field_and_the_remedy(spec: dict[str, Any], refusal: str) -> None:
    assert refusal in refusals(v1_pool(**spec))


def test_the_two_alpha_port_names_exclude_each_other() -> None:
    text = alpha_pool(extensionRef={"name": "picker", "portNumber": 1, "targetPortNumber": 2})
    assert refusals(text) == ["spec.extensionRef: use either portNumber or targetPortNumber, not both"]


def test_attach_to_names_a_listener_in_the_pools_namespace_by_default() -> None:
    assert accepted(attached("name: gw\nport: 8081\n"), Pool).attach_to == AttachTo(Key("team", "gw"), 8081)
    other = accepted(attached("name: gw\nport: 8081\nnamespace: infra\n"), Pool)
    assert other.attach_to == AttachTo(Key("infra", "gw"), 8081)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("name: gw", ".port: is required"),
        ("name: gw\nport: http", ".port: must be a whole number, not 'http'"),
        ("name: gw\nport: 8081\nnamspace: infra", ".namspace: unknown field; did you mean namespace?"),
        ("gw:8081", ": must be a mapping, not 'gw:8081'"),
        ("name: [", ": must be YAML text of the lines `name: my-gateway` and `port: 8081`"),
        ("", ": must be YAML text of the lines `name: my-gateway` and `port: 8081`"),
    ],
)
def test_a_wrong_attach_to_annotation_is_refused_by_field(text: str, refusal: str) -> None:
    assert refusals(attached(text)) == [f"metadata.annotations[{ATTACH_TO}]{refusal}"]
