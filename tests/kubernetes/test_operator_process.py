"""The operator's process on a real API server: start, end, probes, mistakes, and two of them at once."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from igw_cluster.apiserver import ApiServer, running_api_server
from igw_cluster.kubectl import Kubectl
from igw_operator.controller.peers import LIFETIME
from igw_testing.operator_manifests import gateway, pool
from igw_testing.operator_process import (
    SOON_S,
    Operator,
    clean,
    install_gateway_kinds,
    own_objects,
    running_operator,
    until,
)

pytestmark = pytest.mark.timeout(180)
PEERING = "igw-test"
PATIENCE_S = {signal.SIGTERM: 12.0, signal.SIGKILL: LIFETIME + 12.0}


@pytest.fixture(scope="module")
def kinds(installed: Kubectl) -> Kubectl:
    """kubectl to a server with all definitions that the operator needs, and a peering."""
    install_gateway_kinds(installed)
    installed.apply(f"apiVersion: kopf.dev/v1\nkind: ClusterKopfPeering\nmetadata: {{name: {PEERING}}}")
    return installed


@pytest.fixture
def place(kinds: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace that is emptied at the end."""
    yield namespace
    clean(kinds, namespace)


def test_the_probes_tell_the_state(api_server: ApiServer, kinds: Kubectl, tmp_path: Path) -> None:
    """Alive and ready are different questions."""
    with running_operator(api_server.kubeconfig, tmp_path) as operator:
        operator.serving()
        assert operator.page("/healthz") == (200, "ok\n")
        assert operator.page("/readyz") == (200, "serving\n")
        assert operator.metric("igw_operator_active") == 1
        assert operator.metric("igw_operator_last_success_timestamp_seconds") > time.time() - 60
        assert operator.stop() == 0


def test_sigterm_ends_it_within_seconds(api_server: ApiServer, kinds: Kubectl, tmp_path: Path) -> None:
    """With exit code 0 and without a traceback."""
    with running_operator(api_server.kubeconfig, tmp_path) as operator:
        operator.serving()
        began = time.monotonic()
        assert operator.stop() == 0
        assert time.monotonic() - began < 5
        assert "Traceback" not in operator.text


def test_an_api_server_that_cannot_be_reached_is_waited_for(tmp_path: Path) -> None:
    """It says so in its log and in /readyz."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: x}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""
    )
    with running_operator(kubeconfig, tmp_path) as operator:
        until(lambda: "waiting for the API server" in operator.state(), SOON_S, "said")
        assert operator.page("/readyz")[0] == 503
        assert operator.page("/healthz")[0] == 200
        assert operator.text.count("waiting for the API server") == 1
        assert operator.stop() == 0


@pytest.mark.parametrize("text", [None, "not: a kubeconfig"])
def test_a_kubeconfig_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str | None) -> None:
    """Exit code 2."""
    kubeconfig = tmp_path / "kubeconfig"
    if text is not None:
        kubeconfig.write_text(text)
    with running_operator(kubeconfig, tmp_path) as operator:
        assert operator.process.wait(30) == 2
        assert operator.text.startswith(f"problem: --kubeconfig {kubeconfig}: ")
        assert operator.text.count("\n") == 1


def test_a_port_that_is_taken_is_refused_in_one_line(api_server: ApiServer, kinds: Kubectl, tmp_path: Path) -> None:
    """Exit code 2."""
    with (
        running_operator(api_server.kubeconfig, tmp_path, "first") as first,
        running_operator(api_server.kubeconfig, tmp_path, "second", listen=first.address) as second,
    ):
        assert second.process.wait(30) == 2
        assert second.text.startswith(f"problem: operator.listen {first.address}: ")


def test_kinds_that_are_missing_are_waited_for(tmp_path: Path) -> None:
    """It says what to install, and serves as soon as everything is there."""
    with running_api_server(tmp_path / "server") as server:
        server.kubectl.apply(Path(__file__).parents[2] / "crds")
        with running_operator(server.kubeconfig, tmp_path) as operator:
            until(lambda: "gateways.gateway.networking.k8s.io" in operator.state(), SOON_S, "said")
            assert "Envoy Gateway 1.9" in operator.state()
            assert "inferencepools" not in operator.state()
            assert operator.page("/readyz")[0] == 503
            install_gateway_kinds(server.kubectl)
            operator.serving()
            server.kubectl.apply(gateway() + "---\n" + pool(), "-n", "default")
            server.kubectl.until(lambda: ("HTTPRoute", "igw-llm") in own_objects(server.kubectl), SOON_S, "served")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_of_two_operators_one_writes_and_the_other_takes_over(
    api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path, how: signal.Signals
) -> None:
    """Whichever starts first, though both start at once. One that ends says goodbye; one that is killed is missed when
    its record in the peering is out of date."""
    with (
        running_operator(api_server.kubeconfig, tmp_path, "old", peering=PEERING) as old,
        running_operator(api_server.kubeconfig, tmp_path, "new", peering=PEERING) as new,
    ):
        first, second = (old, new) if leads_first(old, new) else (new, old)
        kinds.apply(gateway() + "---\n" + pool(), "-n", place)
        kinds.until(lambda: ("HTTPRoute", "igw-llm") in own_objects(kinds, place), SOON_S, "written")
        first.idle()
        assert second.writes() == 0
        standing_by(second)
        first.stop(how)
        stopped = time.monotonic()
        kinds("delete", "inferencepools.inference.networking.k8s.io", "llm", "-n", place)
        kinds.until(lambda: not own_objects(kinds, place), PATIENCE_S[how], "taken over")
        print(f"{how.name}: taken over within {time.monotonic() - stopped:.1f} s")
        assert second.metric("igw_operator_active") == 1
        assert second.page("/readyz") == (200, "serving\n")


def test_a_new_operator_never_takes_over_from_one_that_works(
    api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path
) -> None:
    """It is ready at once all the same: a Deployment's rollout waits for that before it stops the old one."""
    with running_operator(api_server.kubeconfig, tmp_path, "old", peering=PEERING) as old:
        old.serving()
        for name, port in (("new", 8080), ("newer", 8081)):
            with running_operator(api_server.kubeconfig, tmp_path, name, peering=PEERING) as new:
                comes_too_late(new, kinds, place, gateway() + "---\n" + pool(name, port, picker=name))
        assert old.state() == "serving"


def comes_too_late(operator: Operator, kinds: Kubectl, place: str, texts: str) -> None:
    """It starts, sees these manifests come and be served by another one, and ends, without a write."""
    until(lambda: operator.page("/readyz")[0] == 200, SOON_S, "ready")
    standing_by(operator)
    before = len(own_objects(kinds, place))
    kinds.apply(texts, "-n", place)
    kinds.until(lambda: len(own_objects(kinds, place)) >= before + 15, SOON_S, "written")
    standing_by(operator)
    assert operator.writes() == 0
    assert operator.stop() == 0


def test_an_operator_without_a_record_of_its_own_writes_nothing(
    api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path
) -> None:
    """Others believe that it is dead. It says so, and goes on when its record is there again."""
    with running_operator(api_server.kubeconfig, tmp_path, peering=PEERING) as operator:
        operator.serving()
        kinds("patch", "clusterkopfpeering", PEERING, "--type=merge", "-p", '{"status": null}')
        kinds.apply(gateway() + "---\n" + pool(), "-n", place)
        until(lambda: "waiting for a record" in operator.text, SOON_S, "said", lambda: operator.text)
        assert not own_objects(kinds, place)
        kinds.until(lambda: ("HTTPRoute", "igw-llm") in own_objects(kinds, place), LIFETIME + SOON_S, "written")


def leads_first(one: Operator, other: Operator) -> bool:
    """Whether `one` is the one in charge; waits until exactly one is, and both are ready."""
    both = (one, other)
    until(
        lambda: (
            all(operator.page("/readyz")[0] == 200 for operator in both)
            and [operator.state() for operator in both].count("serving") == 1
        ),
        SOON_S,
        "one serves and one stands by",
        lambda: "\n\n".join(operator.text for operator in both),
    )
    return one.state() == "serving"


def standing_by(operator: Operator) -> None:
    """It is alive and ready, and says that another one is in charge."""
    assert operator.page("/healthz") == (200, "ok\n")
    status, state = operator.page("/readyz")
    assert status == 200
    assert state.startswith("standing by: ")
    assert operator.metric("igw_operator_active") == 0
