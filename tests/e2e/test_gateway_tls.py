"""TLS on the gateway's ports under `igw up`, with real Envoy and the real picker: who is served, and what is replaced.

The same is asked of Envoy Gateway in tests/cluster_e2e.
"""

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml
from hpack import Decoder

from igw_cluster.credentials import Authority
from igw_testing.certificates import authority, secret, sign, trusting
from igw_testing.engine_double import END, EngineDouble, running_engine
from igw_testing.gateway_process import START_S
from igw_testing.gateway_texts import engine, pool
from igw_testing.http2_peers import DATA, END_STREAM, HEADERS, PREFACE, headers, parse, settings
from igw_testing.standalone import Up, run_up, running_up, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PORT, PLAIN = 8443, 8080
HOST, OTHER_HOST = "llm.example.test", "other.example.test"


def https(name: str, secret_name: str, **more: Any) -> dict[str, Any]:
    """A listener with a certificate."""
    tls = {"mode": "Terminate", "certificateRefs": [{"name": secret_name}]}
    return {"name": name, "port": PORT, "protocol": "HTTPS", "tls": tls, **more}


def ports(*listeners: Mapping[str, Any]) -> str:
    """A Gateway with these listeners and a plain one."""
    plain = {"name": "plain", "port": PLAIN, "protocol": "HTTP"}
    spec = {"gatewayClassName": "igw", "listeners": [*listeners, plain]}
    body = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw"}, "spec": spec}
    return yaml.safe_dump(body)


@dataclass
class Scene:
    """A gateway with a certificate for every name, and another one for `OTHER_HOST`."""

    up: Up
    engine: EngineDouble
    web: Authority
    other: Authority
    folder: Path

    def write(self, name: str, text: str) -> None:
        """Replace a manifest file, whole."""
        fresh = self.up.manifests / f".{name}"
        fresh.write_text(text)
        fresh.replace(self.up.manifests / f"{name}.yaml")

    @property
    def address(self) -> tuple[str, int]:
        """Where the port with TLS is."""
        host, _, port = self.up.url(PORT).removeprefix("http://").rpartition(":")
        return host, int(port)

    async def shown(self, name: str = HOST, *, by: Authority | None = None, **options: Any) -> ssl.SSLObject:
        """A handshake with a server of that name. Raises ssl.SSLError, ConnectionError."""
        context = trusting((by or self.web).folder, "h2", "http/1.1")
        for option, value in options.items():
            setattr(context, option, value)
        async with asyncio.timeout(START_S):
            _, writer = await asyncio.open_connection(*self.address, ssl=context, server_hostname=name)
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.close()
        return found

    async def serial(self) -> str:
        """The number of the certificate that is shown now."""
        certificate = (await self.shown()).getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """The gateway, as verbose as it can be; one certificate from a manifest, one from plain files."""
    folder = tmp_path_factory.mktemp("tls")
    manifests = folder / "manifests"
    manifests.mkdir()
    web, other = authority(folder / "web"), authority(folder / "other")
    sign(web, HOST)
    sign(other, OTHER_HOST)
    async with running_engine() as one:
        listeners = ports(https("all", "web"), https("other", "other", hostname=OTHER_HOST))
        texts = [listeners, pool("llm", PORT), engine("llm", one.address)]
        (manifests / "a.yaml").write_text("---\n".join(texts))
        (manifests / "web.yaml").write_text(secret(web.folder))
        options = ("--log-level", "debug", "--access-log", str(folder / "access.log"), "--secret")
        async with running_up(
            manifests, folder / "state", *options, f"other={other.folder}", ports=(PORT, PLAIN)
        ) as up:
            yield Scene(up, one, web, other, folder)


def session(scene: Scene) -> aiohttp.ClientSession:
    """A client that trusts the authority, and finds the gateway under its name."""
    connector = aiohttp.TCPConnector(ssl=trusting(scene.web.folder))
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60))


def url(scene: Scene, path: str) -> str:
    """Of the port with TLS."""
    return scene.up.url(PORT).replace("http:", "https:") + path


async def test_requests_and_streams_are_served_over_tls(scene: Scene) -> None:
    """By the picker, like any other."""
    async with session(scene) as client:
        asked = {"model": "m", "prompt": "hello"}
        async with client.post(url(scene, "/v1/completions"), json=asked, server_hostname=HOST) as answer:
            assert answer.status == 200
        assert scene.engine.seen[-1]["x-forwarded-proto"] == "https"
        async with client.post(url(scene, "/stream"), json=asked, server_hostname=HOST) as stream:
            for chunk in (b"one", b"two"):
                scene.engine.chunks.put_nowait(chunk)
                assert await stream.content.readexactly(3) == chunk
            scene.engine.chunks.put_nowait(END)
            assert await stream.content.read() == b""


@pytest.mark.parametrize(("offered", "chosen"), [(["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), ([], None)])
async def test_the_protocol_is_agreed_upon(scene: Scene, offered: list[str], chosen: str | None) -> None:
    context = trusting(scene.web.folder, *offered)
    _, writer = await asyncio.open_connection(*scene.address, ssl=context, server_hostname=HOST)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
    writer.close()


async def test_http2_is_spoken_where_it_was_agreed_upon(scene: Scene) -> None:
    context = trusting(scene.web.folder, "h2")
    reader, writer = await asyncio.open_connection(*scene.address, ssl=context, server_hostname=HOST)
    fields = ((":method", "GET"), (":scheme", "https"), (":path", "/v1/models"), (":authority", HOST))
    writer.write(PREFACE + settings() + headers(1, fields, end=True))
    rest, kinds, status = b"", [], ""
    async with asyncio.timeout(START_S):
        while not status or DATA not in kinds:
            frames, rest = parse(rest + await reader.read(65536))
            for one in frames:
                kinds.append(one.kind)
                if one.kind == HEADERS:
                    status = str(dict[Any, Any](Decoder().decode(one.payload))[":status"])
                    assert not one.flags & END_STREAM
    assert status == "200"
    writer.close()


async def test_each_name_gets_its_own_certificate(scene: Scene) -> None:
    """By the name that the client asks for; what no listener names gets that of the listener for all."""
    assert await scene.shown(OTHER_HOST, by=scene.other)
    with pytest.raises(ssl.SSLCertVerificationError, match="CERTIFICATE_VERIFY_FAILED"):
        await scene.shown(OTHER_HOST, by=scene.web)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await scene.shown("third.example.test")


async def test_old_versions_are_refused(scene: Scene) -> None:
    assert (await scene.shown(maximum_version=ssl.TLSVersion.TLSv1_2)).version() == "TLSv1.2"
    assert (await scene.shown()).version() == "TLSv1.3"
    with pytest.warns(DeprecationWarning), pytest.raises((ssl.SSLError, ConnectionError)):
        await scene.shown(minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1)


async def test_plain_text_is_refused_on_that_port_and_served_on_the_other(scene: Scene) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.get(scene.up.url(PORT) + "/v1/models")
        async with client.get(scene.up.url(PLAIN) + "/v1/models") as answer:
            assert answer.status == 404


async def test_a_certificate_is_replaced_without_cutting_a_stream(scene: Scene) -> None:
    """Several times; connections that stand go on, new ones see the new one."""
    envoy = scene.up.children()["envoy"]
    async with session(scene) as client, client.post(url(scene, "/stream"), json={}, server_hostname=HOST) as stream:
        for _ in range(3):
            before = await scene.serial()
            scene.write("web", secret(sign(scene.web, HOST)))

            async def is_new(before: str = before) -> bool:
                return await scene.serial() != before

            await until(is_new, START_S)
            scene.engine.chunks.put_nowait(b"one")
            assert await stream.content.readexactly(3) == b"one"
        scene.engine.chunks.put_nowait(END)
        assert await stream.content.read() == b""
    assert scene.up.children()["envoy"] == envoy


async def test_plain_files_are_followed_too(scene: Scene) -> None:
    """A pair that was replaced half is a mistake, and the old one stays."""
    before = (await scene.shown(OTHER_HOST, by=scene.other)).getpeercert()
    sign(scene.other, OTHER_HOST)

    async def is_new() -> bool:
        return (await scene.shown(OTHER_HOST, by=scene.other)).getpeercert() != before

    await until(is_new, START_S)


@pytest.mark.parametrize("broken", ["mismatch", "no-pem", "gone"])
async def test_a_certificate_that_cannot_be_used_leaves_the_old_one(scene: Scene, broken: str) -> None:
    """And the reason is told in one line, without any of the key."""
    good = (scene.up.manifests / "web.yaml").read_text()
    serial = await scene.serial()
    key = (scene.web.folder / "tls.key").read_text()
    told = {
        "mismatch": "Secret default/web has a `tls.key` that is not that of the first certificate in `tls.crt`",
        "no-pem": "Secret default/web has no PEM certificate in `tls.crt`",
        "gone": "no Secret default/web for its certificate",
    }[broken]
    texts = {
        "mismatch": secret(scene.web.folder, **{"tls.key": (scene.other.folder / "tls.key").read_text()}),
        "no-pem": secret(scene.web.folder, **{"tls.crt": "nothing"}),
        "gone": "",
    }
    scene.write("web", texts[broken])
    await scene.up.line(f"Gateway default/gw: InvalidCertificateRef: listener all: {told}", START_S)
    assert await scene.serial() == serial
    assert not [line for line in scene.up.problems if key.splitlines()[1] in line]
    scene.write("web", good)


async def test_a_key_is_in_one_file_that_only_its_owner_may_read(scene: Scene) -> None:
    """In no log, no other file and no dump; asked last, after all of the above."""
    key = (scene.web.folder / "tls.key").read_text().splitlines()[1]
    ours = [scene.up.state, scene.folder / "access.log"]
    found = [path for one in ours for path in (one, *one.rglob("*")) if path.is_file()]
    holders = [path for path in found if key in path.read_text(errors="replace")]
    assert [path.name.rpartition("_")[0] for path in holders] == ["tls_default_web"]
    assert stat.S_IMODE(holders[0].stat().st_mode) == 0o600
    async with aiohttp.ClientSession() as client, client.get(f"{scene.up.admin}/config_dump?include_eds") as answer:
        assert key not in await answer.text()
    assert key not in "\n".join((*scene.up.lines, *scene.up.problems))


async def test_nothing_is_opened_without_its_certificate(tmp_path: Path) -> None:
    """Not even in plain text: the start is refused."""
    (tmp_path / "manifests").mkdir()
    text = "---\n".join([ports(https("all", "web")), pool("llm", PORT)])
    (tmp_path / "manifests" / "a.yaml").write_text(text)
    code, output = await run_up(tmp_path / "manifests", tmp_path / "state")
    assert code == 2
    assert "Gateway default/gw: InvalidCertificateRef: listener all: no Secret default/web" in output
