"""`igw bench` on the command line: one clear line and exit code 2 for what cannot be, reports for what can."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE

import psutil
import pytest
from typer.main import get_command

from igw_bench.command import cli
from igw_bench.command.document import SCHEMA
from igw_bench.command.page import page
from igw_extproc.scheduling.policies import SPLITS
from igw_testing.nobody import nobody

QUICK = ("--offline", "--requests", "60", "--policies", "round-robin,prefix-cache")

Igw = Callable[..., tuple[int, str, str]]


@pytest.fixture
def igw_bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Igw:
    """Runs the command in this process: exit code, output, errors."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["igw bench", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


@contextmanager
def listing(models: object, status: int = 200) -> Iterator[tuple[str, list[str | None]]]:
    """An API that lists models, and nothing else; its URL, and the keys that it was shown."""
    keys: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("authorization"))
            body = json.dumps(models).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", keys
        finally:
            server.shutdown()
            serving.join()


TWO = {"data": [{"id": "one"}, {"id": "two"}]}


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--policies nearest", "--policies nearest: no such policy; there are prefix-cache"),
        ("--policies sglang", "--policies sglang: no such policy"),  # a rule that is simulated only
        ("--workload none", "--workload none: no such workload; there are sharegpt, prefixes, chats, trace, A"),
        ("--trace /no/such.jsonl", "/no/such.jsonl: No such file or directory"),
        ("--trace x --workload A", "--trace does not go with --workload A"),
        ("--rate 3 --clients 4", "--rate (open loop) and --clients (closed loop) exclude each other"),
        ("--duration long", "--duration long: must be a time such as 250ms, 90s or 5m"),
        ("--slo-ttft 2d", "--slo-ttft 2d: must be a time"),
        ("--model m", "--model needs --url"),
        ("--url http://x/v1 --offline", "--offline does not go with --url"),
        ("--url http://x/v1 --speed 2", "--speed is for simulated engines"),
        ("--url x/v1", "--url x/v1: must begin with http:// or https://"),
        ("--url http://x/v1 --api rest", "--api rest: must be chat or completions"),
        ("--url http://x/v1 --api-key-file /no/key", "--api-key-file /no/key: cannot be read"),
        (
            "--offline --queue --policies sglang",
            "--queue does not go with --policies sglang: other routers' rules have",
        ),
        ("--offline --prefillers 2", "--prefillers needs --policies pd-split or dynamic-pd-split"),
        ("--policies pd-split --engines 1", "--policies pd-split needs two engines or more: see --engines"),
        ("-w E --prefillers 8", "--prefillers 8: of 8 engines one must answer"),
        (
            "-w C --offline --policies pd-split",
            "--policies pd-split: engines of workload C die, which is not simulated",
        ),
        ("--url http://x/v1 --prefillers 2", "--prefillers does not go with --url"),
        ("--offline --json /no/such/folder/x.json", "/no/such/folder/x.json: no such folder"),
        ("--seeds none", "Invalid value for '--seeds'"),
        ("--nonsense", "No such option: --nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(igw_bench: Igw, words: str, complaint: str) -> None:
    code, output, errors = igw_bench(*words.split())
    assert (code, output) == (2, "")
    assert errors.startswith(f"igw bench: {complaint}")
    assert errors.count("\n") == 1


def test_a_bad_line_of_a_trace_is_named(igw_bench: Igw, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"timestamp": 0, "input_length": 3, "output_length": 1}\n{"timestamp": 1}\n')
    code, _, errors = igw_bench("--offline", "--trace", str(tmp_path / "t.jsonl"))
    assert (code, errors) == (
        2,
        f"igw bench: {tmp_path}/t.jsonl:2: input_length must be a whole number of tokens, 1 or more\n",
    )


def test_a_target_that_is_not_there_is_said_before_anything_is_sent(igw_bench: Igw) -> None:
    with nobody() as address:
        code, _, errors = igw_bench("--url", f"http://{address}/v1", "--model", "m")
    assert (code, errors) == (2, f"igw bench: --url http://{address}/v1: not reachable: Connection refused\n")


def test_an_unknown_model_is_told_with_those_that_there_are(igw_bench: Igw) -> None:
    with listing(TWO) as (url, _):
        assert igw_bench("--url", url, "--model", "three")[::2] == (
            2,
            f"igw bench: --model three: unknown to {url}; it has one, two\n",
        )
        assert igw_bench("--url", url)[2] == "igw bench: --model is required: it has one, two\n"


def test_a_key_comes_from_the_environment_or_a_file_and_a_refused_one_is_said_so(
    igw_bench: Igw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("from-a-file\n")
    with listing({}, status=401) as (url, keys):
        code, _, errors = igw_bench("--url", url, "--api-key-file", str(tmp_path / "key"))
        monkeypatch.setenv("MY_KEY", "from-the-environment")
        igw_bench("--url", url, "--api-key-env", "MY_KEY")
        igw_bench("--url", url)
    assert (code, errors) == (2, f"igw bench: --url {url}: HTTP 401: see --api-key-env and --api-key-file\n")
    assert keys == ["Bearer from-a-file", "Bearer from-the-environment", None]


# ------------------------------------------------------------------------------------------------ reports


def test_an_offline_run_ends_with_a_table_a_document_and_a_page(igw_bench: Igw, tmp_path: Path) -> None:
    written = ("--json", str(tmp_path / "r.json"), "--html", str(tmp_path / "r.html"))
    code, output, errors = igw_bench(*QUICK, "--seeds", "2", *written)
    assert code == 0
    assert [line.split()[0] for line in output.splitlines() if line.startswith(("round", "prefix", "  ratio"))] == [
        "round-robin",
        "prefix-cache",
        "ratio",
    ]
    assert "  4/4 prefix-cache     seed 2  60 requests" in errors
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["schema"], report["target"], list(report["policies"])) == (
        SCHEMA,
        "offline",
        ["round-robin", "prefix-cache"],
    )
    assert [run["figures"]["answered"] for run in report["runs"]] == [60] * 4
    assert (tmp_path / "r.html").read_text() == page(report)


def test_the_rules_of_other_routers_can_be_simulated(igw_bench: Igw) -> None:
    code, output, _ = igw_bench("--offline", "--requests", "40", "--policies", "sglang,prefix-cache", "-w", "prefixes")
    assert code == 0
    assert "sglang" in output


@pytest.mark.parametrize("workload", ["sharegpt", "prefixes", "chats", "A", "D", "E"])
def test_every_load_can_be_simulated(igw_bench: Igw, workload: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    words = ("--offline", "--policies", "prefix-cache", "--requests", "50", "-w", workload, "--warmup", "0s")
    assert igw_bench(*words, "--json", str(path))[0] == 0
    figures = json.loads(path.read_text())["runs"][0]["figures"]
    assert (figures["answered"], figures["failed"], figures["refused"]) == (50, 0, 0)
    assert (figures["cached_share"] > 0.2) == (workload in ("prefixes", "chats"))


def test_mixed_and_divided_fleets_are_compared_on_the_workload_meant_for_it(igw_bench: Igw, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    words = ("--offline", "-w", "E", "--requests", "120", "--queue", "--warmup", "0s", "--json", str(path))
    assert igw_bench(*words)[0] == 0
    report = json.loads(path.read_text())
    assert (list(report["policies"]), report["baseline"]) == (["prefix-cache", *SPLITS], "prefix-cache")
    assert [run["figures"]["answered"] for run in report["runs"]] == [120] * 3
    assert [len(run["endpoints"]) for run in report["runs"]] == [8, 2, 8], "prefillers answer nobody"
    mixed, static, _ = (run["figures"]["tpot_p99"] for run in report["runs"])
    assert static < mixed


def test_the_queue_refuses_offline_what_has_waited_too_long_and_keeps_the_rest_quick(
    igw_bench: Igw, tmp_path: Path
) -> None:
    """Twice as many clients as the engines have room for, at any speed: the wait is one of the workload's clock."""
    found = []
    for name, more in (("without", ()), ("queue", ("--queue",)), ("fast", ("--queue", "--speed", "5"))):
        path = tmp_path / f"{name}.json"
        load = ("-w", "A", "--clients", "320", "--requests", "1200", "--policies", "prefix-cache")
        assert igw_bench("--offline", *load, *more, "--json", str(path))[0] == 0
        found.append(json.loads(path.read_text())["runs"][0])
    without, queue, fast = found
    assert without["refusals"] == {}
    for one in (queue, fast):
        assert list(one["refusals"]) == ["429"]
        assert one["figures"]["ttft_p99"] < without["figures"]["ttft_p99"]
    assert fast["refusals"]["429"] == pytest.approx(queue["refusals"]["429"], rel=0.3)


def test_conversations_of_sharegpt_are_a_load(igw_bench: Igw, tmp_path: Path) -> None:
    said = [{"conversations": [{"from": "human", "value": "how? " * 9}, {"from": "gpt", "value": "so. " * 30}]}] * 70
    (tmp_path / "s.json").write_text(json.dumps(said))
    words = ("--offline", "--trace", str(tmp_path / "s.json"), "--policies", "prefix-cache", "--requests", "50")
    assert igw_bench(*words, "--json", str(tmp_path / "r.json"))[0] == 0
    figures = json.loads((tmp_path / "r.json").read_text())["runs"][0]["figures"]
    assert (figures["answered"], figures["failed"]) == (50, 0)
    assert figures["tokens_per_s"] * figures["duration"] == pytest.approx(50 * 30)


def test_every_option_and_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "bench.md").read_text()
    options = [one for known in get_command(cli.app).params for one in (*known.opts, *known.secondary_opts)]
    named = [one for one in options if one.startswith("--")]
    assert len(named) > 30
    assert [one for one in named if not re.search(rf"{one}(?![\w-])", page)] == []
    (codes,) = re.findall(r"Exit codes: ([^.]*\([^)]*\)[^.]*)\.", page)
    assert re.findall(r"(\d+) [a-zA-Z]", codes) == ["0", "1", "2", "130", "143"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_an_interrupted_simulation_ends_at_once_and_leaves_no_process(number: signal.Signals, code: int) -> None:
    """As in a terminal, where Ctrl-C reaches all processes of the command."""
    words = [
        str(Path(sys.executable).parent / "igw"),
        "bench",
        "-w",
        "A",
        "--requests",
        "300",
        "--offline",
        "--seeds",
        "100",
    ]
    with subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, errors = process.communicate(timeout=50)
    assert (process.returncode, output) == (code, "")
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30.0
    while (left := members(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def members(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(one.pid) == group and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one.pid)
    return found


def test_a_load_that_ends_before_its_warm_up_is_said_to_count_nothing(igw_bench: Igw) -> None:
    code, output, _ = igw_bench("--offline", "-w", "E", "--requests", "20", "--policies", "prefix-cache")
    assert code == 0
    assert "Warning: no latency counts: every request was due before 20 s, see --warmup" in output


def test_a_duration_ends_a_simulated_load_too(igw_bench: Igw, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for how in (("--rate", "5"), ("--clients", "4"), ("-w", "chats", "--clients", "4")):
        words = ("--offline", "--policies", "round-robin", "--duration", "30s", "--json", str(path), *how)
        assert igw_bench(*words)[0] == 0
        report = json.loads(path.read_text())["runs"][0]["figures"]
        assert 5 < report["answered"] < 300
        assert report["duration"] > 25
