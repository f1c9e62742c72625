"""What the operator makes of users' objects on a real API server: created, healed, removed, and else left alone."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from igw_api.wire import ATTACH_TO_ANNOTATION
from igw_cluster.apiserver import ApiServer
from igw_cluster.kubectl import Kubectl
from igw_testing.operator_manifests import GIVEN, gateway, model, pool
from igw_testing.operator_process import (
    OWN_KINDS,
    SOON_S,
    Operator,
    clean,
    install_gateway_kinds,
    own_objects,
    running_operator,
)

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def kinds(installed: Kubectl) -> Kubectl:
    """kubectl to a server with all definitions that the operator needs."""
    install_gateway_kinds(installed)
    return installed


@pytest.fixture
def place(kinds: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace that is emptied at the end."""
    yield namespace
    clean(kinds, namespace)


@pytest.fixture
def operator(api_server: ApiServer, kinds: Kubectl, tmp_path: Path) -> Iterator[Operator]:
    """One that serves."""
    with running_operator(api_server.kubeconfig, tmp_path) as running:
        yield running.serving()


def exists(kubectl: Kubectl, place: str, *wanted: tuple[str, str]) -> None:
    """Wait for these objects."""
    kubectl.until(lambda: set(wanted) <= set(own_objects(kubectl, place)), SOON_S, f"{wanted}")


def versions(kubectl: Kubectl, place: str) -> dict[tuple[str, str], str]:
    """Each object's version: the same as long as nobody writes it."""
    return {one: body["metadata"]["resourceVersion"] for one, body in own_objects(kubectl, place).items()}


def test_the_given_manifests_lead_to_all_that_the_annotation_implies(
    kinds: Kubectl, place: str, operator: Operator
) -> None:
    """One pool on one listener: the picker with its rights, both ways to it, policies, and the pool's route."""
    kinds.apply(gateway() + "---\n" + GIVEN, "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-vllm-llama2-7b-pool"))
    assert set(own_objects(kinds, place)) == {
        ("ConfigMap", "igw-gw-p8081"),
        ("ServiceAccount", "igw-gw-p8081"),
        ("Role", "igw-gw-p8081"),
        ("RoleBinding", "igw-gw-p8081"),
        ("Role", f"igw-{place}-gw-p8081-pods"),
        ("RoleBinding", f"igw-{place}-gw-p8081-pods"),
        ("Deployment", "igw-gw-p8081"),
        ("Service", "igw-gw-p8081"),
        ("Service", "igw-gw-p8081-front"),
        ("EndpointSlice", "igw-gw-p8081-front"),
        ("EnvoyExtensionPolicy", "igw-gw-p8081"),
        ("ClientTrafficPolicy", "igw-gw-p8081"),
        ("Service", "igw-vllm-llama2-7b-pool"),
        ("Service", "inference-gateway-ext-proc"),
        ("BackendTrafficPolicy", "igw-vllm-llama2-7b-pool"),
        ("HTTPRoute", "igw-vllm-llama2-7b-pool"),
    }
    served = json.loads(kinds.get("configmap", "igw-gw-p8081", place)["data"]["objects.json"])
    assert [one["name"] for one in served["models"]] == ["/model/llama2"]


def test_the_front_leads_to_the_pickers_cluster_ip(kinds: Kubectl, place: str, operator: Operator) -> None:
    """The address is known only from the API server's answer to the first write."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    exists(kinds, place, ("EndpointSlice", "igw-gw-p8081-front"))
    address = kinds.get("service", "igw-gw-p8081", place)["spec"]["clusterIP"]
    assert kinds.get("endpointslice", "igw-gw-p8081-front", place)["endpoints"][0]["addresses"] == [address]


def test_a_pass_without_a_change_writes_nothing(kinds: Kubectl, place: str, operator: Operator) -> None:
    """Neither does one that something unrelated has started."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-llm"))
    before, written, passes = versions(kinds, place), operator.idle().writes(), operator.passes()
    kinds("create", "service", "clusterip", "unrelated", "--tcp=80", "-n", place)
    kinds("annotate", "gateway", "gw", "someone=else", "-n", place)
    kinds.until(lambda: operator.passes() > passes, SOON_S, "a pass")
    assert operator.idle().writes() == written
    assert versions(kinds, place) == before


def test_a_pool_comes_and_goes_without_a_refused_write(kinds: Kubectl, place: str, operator: Operator) -> None:
    """Nothing is bound before it exists, and nothing deleted twice: each refusal costs a pass over everything."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-llm"))
    operator.idle()
    kinds("delete", "inferencepools.inference.networking.k8s.io", "llm", "-n", place)
    kinds.until(lambda: not own_objects(kinds, place), SOON_S, "all is gone")
    operator.idle()
    assert operator.writes() == operator.metric("igw_operator_api_writes_total", result="ok")


def test_failures_are_forgotten_with_what_they_were_for(kinds: Kubectl, place: str, operator: Operator) -> None:
    """In a namespace that is being deleted nothing can be created; when the pool has gone as well, all is quiet."""
    kinds.apply(gateway() + "---\n" + pool(port=None), "-n", place)
    kinds("delete", "namespace", place, "--wait=false")
    note = f"{ATTACH_TO_ANNOTATION}={{name: gw, port: 8081}}"
    kinds("annotate", "inferencepools.inference.networking.k8s.io", "llm", note, "-n", place)
    kinds.until(lambda: operator.metric("igw_operator_failing_objects") > 0, SOON_S, "writes are refused")
    kinds("delete", "inferencepools.inference.networking.k8s.io", "llm", "-n", place)
    assert operator.idle().metric("igw_operator_failing_objects") == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_changes_nothing(
    api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path, how: signal.Signals
) -> None:
    """The new operator finds everything as it would make it."""
    with running_operator(api_server.kubeconfig, tmp_path, "first") as first:
        kinds.apply(gateway() + "---\n" + pool() + "---\n" + model("m"), "-n", place)
        exists(kinds, place, ("HTTPRoute", "igw-llm"))
        before = (first.idle(), versions(kinds, place))[1]
        assert first.stop(how) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
    with running_operator(api_server.kubeconfig, tmp_path, "second") as second:
        second.serving().idle()
        assert second.writes() == 0
    assert versions(kinds, place) == before


def test_what_was_deleted_while_nobody_watched_is_cleaned_up_at_the_start(
    api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path
) -> None:
    """Orphans are found by their labels."""
    with running_operator(api_server.kubeconfig, tmp_path, "first"):
        kinds.apply(gateway() + "---\n" + pool(), "-n", place)
        exists(kinds, place, ("HTTPRoute", "igw-llm"))
    kinds("delete", "inferencepools.inference.networking.k8s.io", "llm", "-n", place)
    with running_operator(api_server.kubeconfig, tmp_path, "second") as second:
        second.serving()
        kinds.until(lambda: not own_objects(kinds, place), SOON_S, "gone")


def test_deleting_a_pool_removes_what_it_implied_and_nothing_else(
    api_server: ApiServer, kinds: Kubectl, place: str, operator: Operator
) -> None:
    """The other pool's objects are not even written; the route goes before what it leads to."""
    kinds.apply("---\n".join((gateway(), pool("a", 8080, picker="one"), pool("b", 8081, picker="two"))), "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-a"), ("HTTPRoute", "igw-b"))
    operator.idle()
    others = {one: rv for one, rv in versions(kinds, place).items() if "8081" in one[1] or one[1] in ("igw-b", "two")}
    kinds("create", "configmap", "mine", "-n", place)
    kinds("delete", "inferencepools.inference.networking.k8s.io", "a", "-n", place)
    kinds.until(lambda: set(own_objects(kinds, place)) == set(others), SOON_S, "only the other pool's are left")
    assert versions(kinds, place) == others
    assert kinds.get("configmap", "mine", place)
    order = deletions(api_server.audit, place)
    assert order[0] == "httproutes"
    assert order.index("envoyextensionpolicies") < order.index("backendtrafficpolicies") < order.index("services")


def deletions(audit: Path, place: str) -> list[str]:
    """The kinds that the operator has deleted objects of, in order."""
    events = [json.loads(line) for line in audit.read_text().splitlines() if '"verb":"delete"' in line]
    return [
        event["objectRef"]["resource"]
        for event in events
        if event["objectRef"].get("namespace") == place and "kubectl" not in event["userAgent"]
    ]


@pytest.mark.parametrize("kind", [kind for kind in OWN_KINDS if kind != "httproutefilter"])
def test_an_object_of_ours_that_somebody_deletes_comes_back(
    kinds: Kubectl, place: str, operator: Operator, kind: str
) -> None:
    """Of every kind."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-llm"))
    operator.idle()
    before = set(own_objects(kinds, place))
    kinds("delete", kind, "-n", place, "-l", "app.kubernetes.io/managed-by=inference-gateway")
    kinds.until(lambda: set(own_objects(kinds, place)) == before, SOON_S, f"{kind} again")


def test_an_edit_of_ours_is_taken_back(kinds: Kubectl, place: str, operator: Operator) -> None:
    """Fields that we do not set are left to others."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-llm"))
    patch = {"spec": {"retry": {"numRetries": 9}}, "metadata": {"annotations": {"theirs": "kept"}}}
    kinds("patch", "backendtrafficpolicy", "igw-llm", "-n", place, "--type=merge", "-p", json.dumps(patch))

    def healed() -> bool:
        live = kinds.get("backendtrafficpolicy", "igw-llm", place)
        return bool(live["spec"]["retry"]["numRetries"] == 2 and live["metadata"]["annotations"]["theirs"] == "kept")

    kinds.until(healed, SOON_S, "healed")


@pytest.mark.parametrize("kind", ["service", "configmap"])
def test_somebody_elses_object_of_our_name_is_left_alone(
    kinds: Kubectl, place: str, operator: Operator, kind: str
) -> None:
    """Of kinds that are watched whole, and of kinds that are watched only where they are ours."""
    name = "picker" if kind == "service" else "igw-gw-p8081"
    words = ("service", "clusterip", name, "--tcp=80") if kind == "service" else ("configmap", name)
    kinds("create", *words, "-n", place)
    before = kinds.get(kind, name, place)
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    exists(kinds, place, ("HTTPRoute", "igw-llm")) if kind == "service" else None
    operator.idle()
    assert kinds.get(kind, name, place) == before
    kinds("delete", kind, name, "-n", place)
    exists(kinds, place, ("Service" if kind == "service" else "ConfigMap", name))
