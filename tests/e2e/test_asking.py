"""`igw explain` and `igw top` ask a gateway that runs: real Envoy, real picker, the commands as users run them."""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp
import pytest

from igw_testing.engine_double import EngineDouble
from igw_testing.standalone import Up, ask, running_up, write_users_manifests

Engines = tuple[EngineDouble, EngineDouble]
MODEL = "/model/llama2"
EXPLAINS = """
apiVersion: inferencegateway.io/v1alpha1
kind: InferencePoolPolicy
metadata: {name: explains}
spec:
  targetRefs: [{name: vllm-llama2-7b-pool}]
  scheduling: {policy: least-request, explain: true}
"""


async def igw(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "igw_operator",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def explained(up: Up, name: str) -> dict[str, object]:
    code, out, errors = await igw("explain", name, "--state-dir", str(up.state), "--json")
    assert code == 0, errors
    told: dict[str, object] = json.loads(out)
    return told


async def test_a_request_is_explained_by_the_id_in_its_response(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Placed by the picker; the header with the decision comes only where client and policy want it."""
    manifests = write_users_manifests(tmp_path / "manifests", (one.address for one in engines))
    (manifests / "explains.yaml").write_text(EXPLAINS)
    async with running_up(manifests, tmp_path / "state") as up:
        body = {"model": MODEL, "prompt": "a secret prompt"}
        url = f"{up.url(8081)}/v1/completions"
        async with session.post(url, json=body, headers={"x-igw-explain": "1"}) as answer:
            assert answer.status == 200
            name, decision = answer.headers["x-request-id"], answer.headers["x-igw-decision"]
        told = await explained(up, name)
        assert (told["pool"], told["outcome"], told["status"]) == ("default/vllm-llama2-7b-pool", "placed", 200)
        assert f"endpoint={told['endpoint']};" in decision
        assert "policy=least-request" in decision
        assert "secret" not in json.dumps(told)
        async with session.post(url, json=body) as answer:
            assert "x-igw-decision" not in answer.headers
        code, out, _ = await igw("explain", name, "--state-dir", str(up.state))
        assert code == 0
        assert f"request {name}" in out
        assert str(told["endpoint"]) in out
        code, out, _ = await igw("top", "--once", "--state-dir", str(up.state))
        assert code == 0
        assert "pool default/vllm-llama2-7b-pool, least-request, 0 waiting" in out
        assert all(one.address in out for one in engines)


async def test_a_refused_request_is_explained_too(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """With what its client was told."""
    manifests = write_users_manifests(tmp_path / "manifests", (one.address for one in engines))
    async with running_up(manifests, tmp_path / "state") as up:
        async with session.post(f"{up.url(8081)}/v1/completions", data=b"{", headers=_JSON) as answer:
            assert answer.status == 400
            name = answer.headers["x-request-id"]
        told = await explained(up, name)
        assert (told["outcome"], told["status"]) == ("refused", 400)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("explain", "x"), "holds no running gateway; start `igw up` here"),
        (("top", "--once", "--picker", "127.0.0.1:1"), "the picker at 127.0.0.1:1 does not answer"),
        (("explain", "x", "-n", "models", "--kubeconfig", "nowhere"), "no way to a cluster"),
    ],
)
async def test_where_nobody_can_be_asked_one_line_says_what_to_do(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    where = () if "--picker" in words or "-n" in words else ("--state-dir", str(tmp_path))
    code, out, errors = await igw(*words, *where)
    assert (code, out) == (1, "")
    assert said in errors
    assert len(errors.splitlines()) == 1


async def test_an_unknown_request_is_said_to_be_unknown(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    manifests = write_users_manifests(tmp_path / "manifests", (one.address for one in engines))
    async with running_up(manifests, tmp_path / "state") as up:
        assert (await ask(session, up.url(8081)))[0] == 200
        code, _, errors = await igw("explain", "not-there", "--state-dir", str(up.state))
        assert code == 1
        assert "no picker knows the request not-there; each remembers its last 1,000" in errors


_JSON = {"content-type": "application/json"}
