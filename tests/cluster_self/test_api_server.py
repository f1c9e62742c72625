"""The API server alone: as strict as a real one, quick, and gone when it is not wanted any more."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from igw_cluster import apiserver
from igw_cluster.kubectl import Kubectl, KubectlFailed
from igw_testing.kube import ApiServer, api_server, fresh_namespace

__all__ = ["api_server"]

SETTINGS = """\
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings, namespace: {namespace}}}
data: {{colour: {colour}}}
"""


def test_what_is_applied_is_kept_and_a_second_time_changes_nothing(api_server: ApiServer) -> None:
    namespace = fresh_namespace(api_server)
    api_server.kubectl.apply(SETTINGS.format(namespace=namespace, colour="red"))
    first = api_server.kubectl.get("configmap", "settings", namespace)
    api_server.kubectl.apply(SETTINGS.format(namespace=namespace, colour="red"))
    second = api_server.kubectl.get("configmap", "settings", namespace)
    assert first["data"] == {"colour": "red"}
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_what_breaks_the_schema_is_refused(api_server: ApiServer) -> None:
    namespace = fresh_namespace(api_server)
    with pytest.raises(KubectlFailed, match=r"data\.colour"):
        api_server.kubectl.apply(SETTINGS.format(namespace=namespace, colour="[1, 2]"))


def test_an_account_may_do_what_its_roles_allow_and_no_more(api_server: ApiServer) -> None:
    namespace = fresh_namespace(api_server)
    api_server.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    api_server.kubectl("create", "role", "r", "--verb=list", "--resource=configmaps", "-n", namespace)
    api_server.kubectl(
        "create", "rolebinding", "r", "--role=r", f"--serviceaccount={namespace}:reader", "-n", namespace
    )
    reader = Kubectl(api_server.kubeconfig_of(namespace, "reader"))
    assert reader.list("configmaps", namespace) == []
    with pytest.raises(KubectlFailed, match="forbidden"):
        reader.list("secrets", namespace)


def test_every_call_is_on_record(api_server: ApiServer) -> None:
    namespace = fresh_namespace(api_server)
    api_server.kubectl("create", "configmap", "counted", "-n", namespace)
    lines = api_server.audit.read_text().splitlines()
    assert sum(f"/namespaces/{namespace}/configmaps" in line and '"verb":"create"' in line for line in lines) == 1


def test_nothing_outlives_a_killed_test_run(tmp_path: Path) -> None:
    """The kernel ends etcd and the API server with the process that started them."""
    program = (
        "import sys, time; from pathlib import Path; from igw_cluster.apiserver import running_api_server\n"
        "with running_api_server(Path(sys.argv[1])) as server: print(server.url, flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    path = str(Path(apiserver.__file__).parents[1])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("https://")
        assert len(mentioning(tmp_path)) == 3
        run.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while mentioning(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mentioning(tmp_path) == []


def mentioning(folder: Path) -> list[str]:
    """The processes with this folder in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        if str(folder).encode() in command:
            found.append(process.name)
    return found
