"""Containers of the test cluster's runtime: files, users, rights, logs and ends. All real, but without a kubelet."""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from igw_cluster.cri.wire import cri_pb2 as cri
from igw_testing.container_runtime import Pod, Runtime, running_runtime, security, until

SLEEP = ["sleep", "1000"]
LOOP = "while :; do sleep 0.02; done"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with running_runtime(tmp_path_factory.mktemp("cri")) as running:
        yield running


@pytest.fixture
def pod(runtime: Runtime, request: pytest.FixtureRequest) -> Iterator[Pod]:
    made = runtime.pod(re.sub(r"\W", "-", request.node.name)[-40:].strip("-"))
    yield made
    runtime.remove(made)


def test_the_program_is_the_first_process_and_alone(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, SLEEP)
    assert runtime.output(container, "hostname").strip() == pod.config.hostname
    processes = runtime.output(container, "ps", "-eo", "pid=,comm=").split()
    assert processes[:2] == ["1", "sleep"]
    assert "cri-container" not in processes


def test_an_init_passes_signals_on_and_collects_orphans(runtime: Runtime, pod: Pod) -> None:
    """As the first process, a shell would ignore the signal."""
    container = runtime.run(pod, ["sh", "-c", "(sleep 0.2 & echo orphan); exec sleep 1000"], image="test/init")
    until(lambda: "orphan" in runtime.log(pod), "the start of the orphan")

    def sleeping() -> int:
        return runtime.output(container, "ps", "-eo", "comm=").count("sleep")

    # Its parent has ended, so it is the first process's to collect.
    until(lambda: sleeping() == 1, "the orphan's end")
    assert runtime.stop(container, grace=20) < 10
    assert runtime.ended(container).exit_code == 143


def test_the_container_has_the_user_groups_and_rights_that_it_was_given(runtime: Runtime, pod: Pod) -> None:
    linux = security(
        run_as_user=cri.Int64Value(value=1234),
        run_as_group=cri.Int64Value(value=2345),
        supplemental_groups=[3456],
        no_new_privs=True,
        capabilities=cri.Capability(drop_capabilities=["ALL"]),
    )
    container = runtime.run(pod, SLEEP, linux=linux)
    assert runtime.output(container, "sh", "-c", "id -u; id -g; id -G").split() == ["1234", "2345", "2345", "3456"]
    rights = runtime.output(container, "grep", "-E", "^(Cap|NoNew)", "/proc/1/status")
    assert {line.split()[1].strip("0") for line in rights.splitlines() if line.startswith("Cap")} == {""}
    assert "NoNewPrivs:\t1" in rights


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (cri.Capability(), "a80425fb"),
        (cri.Capability(drop_capabilities=["ALL"], add_capabilities=["NET_BIND_SERVICE"]), "400"),
        (cri.Capability(add_capabilities=["CAP_NET_ADMIN"], drop_capabilities=["KILL"]), "a80435db"),
    ],
)
def test_root_has_the_usual_capabilities_less_and_more_what_is_asked(
    runtime: Runtime, pod: Pod, asked: cri.Capability, held: str
) -> None:
    container = runtime.run(pod, SLEEP, linux=security(capabilities=asked))
    for name in ("CapBnd", "CapEff", "CapPrm"):
        assert runtime.output(container, "grep", name, "/proc/1/status").split()[1].lstrip("0") == held


def test_the_images_user_command_and_environment_hold_where_the_pod_says_none(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, [], image="test/user:any")
    assert runtime.output(container, "sh", "-c", "id -u; echo $FROM_IMAGE").split() == ["65532", "yes"]
    assert "sleep\n" in runtime.output(container, "ps", "-eo", "comm=")


def test_a_plain_user_can_run_the_interpreter_from_a_home_that_is_closed(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, [], image="test/user")
    assert runtime.output(container, sys.executable, "-c", "import grpc; print(6 * 7)").strip() == "42"


def test_a_plain_user_can_open_its_own_outputs_by_name(runtime: Runtime, pod: Pod) -> None:
    """Envoy does, for its access log."""
    runtime.ended(runtime.run(pod, ["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"], image="test/user"))
    said = sorted(line.split(" ", 1)[1] for line in runtime.log(pod).splitlines())
    assert said == ["stderr F err", "stdout F out"]


def test_a_read_only_root_refuses_writes_but_volumes_do_not(runtime: Runtime, pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir()
    (tmp_path / "free").mkdir()
    mounts = [
        cri.Mount(container_path="/data/fixed", host_path=str(tmp_path / "fixed"), readonly=True),
        cri.Mount(container_path="/data/free", host_path=str(tmp_path / "free")),
        # A link of the image, which must lead into the image.
        cri.Mount(container_path="/var/run/secrets/token", host_path=str(tmp_path / "free")),
    ]
    container = runtime.run(pod, SLEEP, mounts=mounts, linux=security(readonly_rootfs=True))
    assert runtime.execute(container, "touch", "/new").exit_code != 0
    assert runtime.execute(container, "touch", "/data/fixed/new").exit_code != 0
    assert runtime.execute(container, "touch", "/data/free/new").exit_code == 0
    assert runtime.output(container, "ls", "/run/secrets/token") == "new\n"
    assert [path.name for path in tmp_path.rglob("new")] == ["new"]


def test_what_a_container_writes_to_its_root_stays_in_it(runtime: Runtime, pod: Pod) -> None:
    first, second = runtime.run(pod, SLEEP), runtime.run(pod, SLEEP)
    runtime.output(first, "sh", "-c", "echo mine > /etc/written-by-a-container")
    assert runtime.execute(second, "cat", "/etc/written-by-a-container").exit_code != 0
    assert not Path("/etc/written-by-a-container").exists()


def test_single_files_are_mounted_and_masked_paths_are_empty(runtime: Runtime, pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 somebody\n")
    mounts = [cri.Mount(container_path="/etc/hosts", host_path=str(tmp_path / "hosts"))]
    linux = security(masked_paths=["/proc/cpuinfo", "/sys/firmware", "/no/such"], readonly_paths=["/proc/sys"])
    container = runtime.run(pod, SLEEP, mounts=mounts, linux=linux)
    assert runtime.output(container, "cat", "/etc/hosts", "/proc/cpuinfo") == "10.0.0.1 somebody\n"
    assert runtime.execute(container, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").exit_code != 0
    expected = "nameserver 10.96.0.10\nsearch svc.cluster.local\noptions ndots:5\n"
    assert runtime.output(container, "cat", "/etc/resolv.conf") == expected


def test_homes_and_sockets_of_the_machine_are_not_in_its_image(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, SLEEP)
    shown = runtime.output(container, "ls", "/tmp", "/home", "/run", "/var/tmp").split()
    # The way to the interpreter is bound into the image, wherever it lies; nothing beside it is.
    assert [word for word in shown if word not in Path(sys.prefix).parts] == ["/home:", "/run:", "/tmp:", "/var/tmp:"]
    assert runtime.output(container, "stat", "-c", "%a", "/tmp").strip() == "1777"


def test_logs_have_a_time_a_stream_and_a_mark_for_lines_that_go_on(runtime: Runtime, pod: Pod) -> None:
    script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf end"
    runtime.ended(runtime.run(pod, ["sh", "-c", script]))
    entries = [line.split(" ", 3) for line in runtime.log(pod).splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry[0]) for entry in entries)
    short = {("stdout", "F", "out"), ("stderr", "F", "err"), ("stdout", "F", "end")}
    assert {tuple(entry[1:]) for entry in entries if len(entry[3]) < 10} == short
    assert [(entry[2], len(entry[3])) for entry in entries if len(entry[3]) > 10] == [("P", 16384), ("F", 3616)]


def test_a_rotated_log_goes_on_in_a_new_file(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, ["sh", "-c", "echo before; while sleep 0.05; do echo after; done"])
    until(lambda: "before" in runtime.log(pod), "the first line")
    path = Path(pod.config.log_directory, "0.log")
    path.rename(path.with_suffix(".old"))
    runtime.call("ReopenContainerLog", cri.ContainerId(container_id=container))
    until(lambda: "after" in runtime.log(pod), "a line in the new file")
    assert "before" in path.with_suffix(".old").read_text()


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("sh -c 'kill -KILL $$'", 137)])
def test_the_exit_code_is_the_programs(runtime: Runtime, pod: Pod, script: str, code: int) -> None:
    status = runtime.ended(runtime.run(pod, ["sh", "-c", script]))
    assert status.exit_code == code
    assert status.reason == ("Error" if code else "Completed")
    assert status.created_at <= status.started_at <= status.finished_at


def test_a_program_that_does_not_exist_is_said_to_be_missing(runtime: Runtime, pod: Pod) -> None:
    container = runtime.create(pod, ["/no/such/program"])
    with pytest.raises(grpc.RpcError, match="cannot start '/no/such/program': No such file"):
        runtime.call("StartContainer", cri.ContainerId(container_id=container))
    status = runtime.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "StartError")


def test_a_stop_asks_first_and_kills_when_the_grace_is_over(runtime: Runtime, pod: Pod) -> None:
    polite = runtime.run(pod, ["sh", "-c", f"trap 'exit 3' TERM; echo polite; {LOOP}"])
    stubborn = runtime.run(pod, ["sh", "-c", f"trap '' TERM; echo stubborn; {LOOP}"])
    until(lambda: {"polite", "stubborn"} <= set(runtime.log(pod).split()), "both traps")
    assert runtime.stop(polite, grace=20) < 10
    assert runtime.ended(polite).exit_code == 3
    assert 1 <= runtime.stop(stubborn, grace=1) < 10
    assert runtime.ended(stubborn).exit_code == 137


def test_the_end_of_the_program_is_the_end_of_all_that_it_started(runtime: Runtime, pod: Pod) -> None:
    runtime.ended(runtime.run(pod, ["sh", "-c", "setsid sleep 4711 & sleep 0.1"]))
    until(lambda: not any("sleep 4711" in process for process in runtime.processes()), "the end of the child")


def test_a_container_whose_keeper_is_killed_ends_too(runtime: Runtime, pod: Pod) -> None:
    """There would be nobody to write its log or to see its end."""
    container = runtime.run(pod, ["sleep", "4716"])
    running = runtime.folder / "root" / "containers" / container / "running.json"
    runtime.machine.run(["kill", "-KILL", str(json.loads(running.read_text())["launcher"]["pid"])])
    assert runtime.ended(container).exit_code == 137
    assert not any("sleep 4716" in process for process in runtime.processes())


def test_a_program_that_ends_with_its_parent_thread_goes_on(runtime: Runtime, pod: Pod) -> None:
    """Envoy is one. The call that started it was served by a thread that is long free for others."""
    container = runtime.run(pod, ["setpriv", "--pdeathsig", "KILL", "sh", "-c", "sleep 1000; true"])
    for _ in range(50):
        runtime.output(container, "true")
    assert runtime.status(container).state == cri.CONTAINER_RUNNING


def test_a_command_that_takes_too_long_is_ended_and_said_so(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, SLEEP)
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as failed:
        runtime.execute(container, "sh", "-c", "sleep 4712; true", timeout=1)
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 10
    until(lambda: "sleep 4712" not in runtime.output(container, "ps", "-eo", "args="), "the end of the command")


def test_a_command_has_the_containers_user_and_code_and_both_outputs(runtime: Runtime, pod: Pod) -> None:
    container = runtime.run(pod, [], image="test/user")
    done = runtime.execute(container, "sh", "-c", "id -u; echo wrong >&2; exit 5")
    assert (done.stdout, done.stderr, done.exit_code) == (b"65532\n", b"wrong\n", 5)
    assert runtime.execute(container, "no-such-command").exit_code == 126
