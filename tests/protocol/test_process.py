"""The picker as a process: how it starts, how it refuses to, how its objects change, and how it ends."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest

from igw_api.manifests import parse
from igw_api.objectset import ObjectSet, dump
from igw_testing.ext_proc import (
    chat,
    destinations,
    kind,
    refusal,
    request_body,
    request_headers,
    response_body,
    response_headers,
)
from igw_testing.metrics_stub import EngineStub, serving
from igw_testing.picker import (
    START_S,
    Exit,
    PickerProcess,
    eventually,
    model,
    pool_documents,
    running,
    spawn,
    write_manifests,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVING = b"\x08\x01"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a picker of the test's own finds its manifests."""
    made = tmp_path / "objects"
    made.mkdir()
    return made


async def failed_start(folder: Path, transport: str, *options: str) -> Exit:
    """Start a picker that cannot run; how it ended."""
    process, log = await spawn(folder, transport, *options)
    try:
        async with asyncio.timeout(START_S):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert b"listening" not in told
    assert process.returncode is not None
    return Exit(process.returncode, log.read_text())


async def served_from(picker: PickerProcess) -> str:
    """Place one request; its first destination."""
    async with picker.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        return destinations(await stream.receive())[0]


# ------------------------------------------------------------------------------------------------ start


async def test_a_port_that_is_taken_ends_the_start_with_one_line(folder: Path, transport: str) -> None:
    """Two pickers on one port would each get some of the requests, and see half of the load."""
    write_manifests(folder, "pool", *pool_documents("p", []))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--port", "--metrics-port"):
            code, errors = await failed_start(folder, transport, option, str(port))
            assert code == 2
            said = [line for line in errors.splitlines() if line.startswith("igw picker: ")]
            assert len(said) == 1 and str(port) in said[0]
            assert "Traceback" not in errors
            (folder.parent / "objects.log").unlink()


async def test_two_pickers_never_share_a_port(folder: Path, transport: str) -> None:
    """SO_REUSEPORT would let the second one in."""
    write_manifests(folder, "pool", *pool_documents("p", []))
    async with running(folder, transport) as first:
        code, _ = await failed_start(folder, transport, "--port", first.address.rpartition(":")[2])
        assert code == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: [", "yaml"),
        (
            "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: p}\nspec: {}\n",
            "selector",
        ),
    ],
    ids=["no-yaml", "invalid-pool"],
)
async def test_bad_manifests_end_the_start_and_the_reason_is_named(
    folder: Path, transport: str, text: str, named: str
) -> None:
    """Where a user mistypes a field, serving nothing without a word would be worse."""
    (folder / "pool.yaml").write_text(text)
    code, errors = await failed_start(folder, transport)
    assert code == 2
    assert "pool.yaml" in errors and named.lower() in errors.lower()
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    "options",
    [
        ("--policy", "no-such"),
        ("--tls-certificate", __file__),
        ("--transport", "carrier-pigeon"),
        ("--objects", "/no/where"),
    ],
    ids=lambda options: options[0],
)
async def test_bad_options_end_the_start(folder: Path, options: tuple[str, ...]) -> None:
    """With the exit code of a usage error."""
    code, errors = await failed_start(folder, "grpc", *options)
    assert code == 2
    assert "Traceback" not in errors


# ------------------------------------------------------------------------------------------------ objects


async def test_a_change_of_the_manifests_takes_effect(folder: Path, transport: str) -> None:
    """An engine joins, a model is declared, an engine leaves: no restart, no lost stream."""
    first, second = EngineStub(), EngineStub()
    async with serving(first, second):
        write_manifests(folder, "pool", *pool_documents("p", [first]))
        async with running(folder, transport) as picker, picker.stream() as witness:
            await picker.sees(first)
            await witness.send(request_headers())
            assert await served_from(picker) == first.address

            picker.write("pool", *pool_documents("p", [second], [model("declared")]))
            await picker.sees(second)
            async with picker.stream() as stream:
                await stream.send(request_headers(), request_body(chat("tiny")))
                refusal(await stream.last(), 404, "rejected-unknown-model")
            await witness.send(request_body(chat("declared")))
            assert destinations(await witness.receive()) == [second.address]


async def test_a_bad_change_keeps_what_was_good(folder: Path, transport: str) -> None:
    """A typing error must not take the gateway down; the next good version takes effect."""
    engine, other = EngineStub(), EngineStub()
    async with serving(engine, other):
        write_manifests(folder, "pool", *pool_documents("p", [engine]))
        async with running(folder, transport) as picker:
            await picker.sees(engine)
            picker.write("pool", "kind: [")

            async def complained() -> bool:
                return "the last good ones stay" in picker.log.read_text()

            await eventually(complained, "the bad file is noticed")
            assert await served_from(picker) == engine.address
            assert (await picker.get("/readyz"))[0] == 200
            picker.write("pool", *pool_documents("p", [other]))
            await picker.sees(other)
            assert await served_from(picker) == other.address


async def test_removing_everything_refuses_with_503(folder: Path, transport: str) -> None:
    """An empty folder is a statement."""
    engine = EngineStub()
    async with serving(engine):
        write_manifests(folder, "pool", *pool_documents("p", [engine]))
        async with running(folder, transport) as picker:
            await picker.sees(engine)
            picker.remove("pool")

            async def gone() -> bool:
                return "igw_picker_endpoint_available{" not in (await picker.get("/metrics"))[1]

            await eventually(gone, "the pool is gone")
            async with picker.stream() as stream:
                await stream.send(request_headers(), request_body(chat()))
                refusal(await stream.last(), 503, "rejected-no-endpoints")


async def test_an_engine_that_dies_is_passed_over_until_it_is_back(folder: Path, transport: str) -> None:
    """The scraper's idle connection tells of the end; the next scrape that is answered tells of the return."""
    stays, dies = EngineStub(waiting=9), EngineStub()
    async with serving(stays), AsyncExitStack() as stack:
        async with serving(dies):
            write_manifests(folder, "pool", *pool_documents("p", [stays, dies]))
            picker = await stack.enter_async_context(running(folder, transport))
            await picker.sees(stays, dies)
            assert await served_from(picker) == dies.address
        await picker.sees(dies, available=False)
        assert await served_from(picker) == stays.address
        async with serving(dies):
            await picker.sees(dies)
            assert await served_from(picker) == dies.address


async def test_the_objects_that_the_operator_writes_are_read_as_well(folder: Path, transport: str) -> None:
    """One JSON file instead of manifests: what the operator accepted, with nothing left to interpret."""
    engine = EngineStub()
    async with serving(engine):
        parsed = parse("\n---\n".join(pool_documents("p", [engine])), "pool.yaml")
        (folder / "objects.json").write_bytes(dump(ObjectSet.of(parsed.objects)))
        async with running(folder, transport) as picker:
            await picker.sees(engine)
            assert await served_from(picker) == engine.address


# ------------------------------------------------------------------------------------------------ TLS


async def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", "/CN=picker", "-addext", "subjectAltName=IP:127.0.0.1"),
        *("-out", str(certificate), "-keyout", str(key)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await made.communicate()
    assert made.returncode == 0, said
    return certificate, key


async def test_streams_and_health_work_over_tls_and_plain_text_does_not(folder: Path, transport: str) -> None:
    """Many gateways speak TLS to their picker, and nothing else."""
    certificate, key = await _certificate(folder.parent)
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    engine = EngineStub()
    async with serving(engine):
        write_manifests(folder, "pool", *pool_documents("p", [engine]))
        async with running(folder, transport, *options, credentials=credentials) as picker:
            await picker.sees(engine)
            assert await served_from(picker) == engine.address
            assert await picker.check("readiness") == SERVING
            async with grpc.aio.insecure_channel(picker.address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            assert await served_from(picker) == engine.address


# ------------------------------------------------------------------------------------------------ end


async def test_a_picker_without_streams_ends_at_once_and_in_good_order(folder: Path, transport: str) -> None:
    """Exit code 0: whoever started it knows that nothing went wrong."""
    write_manifests(folder, "pool", *pool_documents("p", []))
    async with running(folder, transport) as picker:
        assert await picker.check("") == SERVING
        code, errors = await picker.stop()
        assert code == 0, errors
        assert "Traceback" not in errors


async def test_open_streams_may_end_after_sigterm_while_no_new_ones_are_invited(folder: Path, transport: str) -> None:
    """A restart costs no request that is under way."""
    engine = EngineStub()
    async with serving(engine):
        write_manifests(folder, "pool", *pool_documents("p", [engine]))
        # A drain that is far longer than the test: it must end because the stream does.
        async with running(folder, transport, "--drain-seconds", "60") as picker, picker.stream() as stream:
            await picker.sees(engine)
            await stream.send(request_headers(), request_body(chat()))
            await stream.replies(2)
            picker.process.terminate()

            async def draining() -> bool:
                return (await picker.get("/readyz"))[0] == 503

            await eventually(draining, "not ready while draining")
            channel = picker.new_channel()
            try:
                answer = await picker.check("readiness", channel)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
            else:
                assert answer == b"\x08\x02"  # NOT_SERVING
            finally:
                await channel.close()
            await stream.send(response_headers(), response_body(b"{}"))
            assert [kind(reply) for reply in await stream.replies(2)] == ["response_headers", "response_body"]
            assert await stream.rest() == []
            code, errors = await picker.ended()
            assert code == 0, errors
            assert "Traceback" not in errors


async def test_a_drain_ends_after_its_time_whatever_is_still_open(folder: Path, transport: str) -> None:
    """A stream may last for minutes; a restart may not."""
    engine = EngineStub()
    async with serving(engine):
        write_manifests(folder, "pool", *pool_documents("p", [engine]))
        async with running(folder, transport, "--drain-seconds", "0.2") as picker, picker.stream() as stream:
            await picker.sees(engine)
            await stream.send(request_headers(), request_body(chat()))
            await stream.replies(2)
            code, errors = await picker.stop()
            assert code == 0, errors
            assert "Traceback" not in errors
            assert await stream.status() is not grpc.StatusCode.OK
