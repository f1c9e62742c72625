"""TLS between Envoy and the picker under `igw up --picker-tls`: each trusts only whom it knows.

Without a picker that it trusts Envoy goes round robin, as without a picker at all.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from igw_cluster.credentials import Authority
from igw_testing.certificates import authority, put, sign, trusting
from igw_testing.engine_double import running_engine
from igw_testing.gateway_process import START_S, Gateway, running_gateway
from igw_testing.standalone import engines_asked, run_up, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "igw-picker"


@dataclass
class Scene:
    """A gateway with two engines, the directory with its certificates, and who signs them."""

    gateway: Gateway
    tls: Path
    trusted: Authority
    stranger: Authority

    async def ask(self) -> None:
        """Some requests, which are answered whoever places them."""
        await engines_asked(self.gateway.session, self.gateway.up.url(8081), 4)

    async def placed(self) -> float:
        """How many requests the picker has placed."""
        return sum((await self.gateway.placed()).values())

    @property
    def picker_address(self) -> str:
        """Where the picker listens."""
        return str(re.findall(r"^igw picker listening .* address=(\S+)", self.gateway.picker_log(), re.MULTILINE)[-1])

    async def restart_picker(self) -> None:
        """Kill it, and wait for the next one."""
        before = self.gateway.pickers_started()
        self.gateway.kill_picker()
        await self.gateway.picker_listens(before)


@pytest.fixture(scope="module", params=["http2", "grpc"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both transports serve the same."""
    return str(request.param)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory, transport: str) -> AsyncIterator[Scene]:
    """All of it, with the right certificates."""
    folder = tmp_path_factory.mktemp("picker-tls")
    trusted, stranger = authority(folder / "trusted"), authority(folder / "stranger")
    tls = folder / "tls"
    tls.mkdir()
    put(tls, sign(trusted, NAME), "ca.crt", "tls.crt", "tls.key")
    options = ("--picker-tls", str(tls), "--picker-transport", transport)
    async with (
        running_engine("one") as one,
        running_engine("two") as two,
        running_gateway(folder, [one.address, two.address], *options) as gateway,
    ):
        await gateway.picker_is_trusted()
        yield Scene(gateway, tls, trusted, stranger)


async def test_the_picker_places_requests_over_tls(scene: Scene) -> None:
    before = await scene.placed()
    await scene.ask()
    assert await scene.placed() == before + 4


async def check(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """Ask the picker for its health. Raises AioRpcError."""
    options = [("grpc.ssl_target_name_override", NAME)]
    channel = (
        grpc.aio.insecure_channel(address)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options)
    )
    async with channel:
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)


@pytest.mark.parametrize("client", ["plain", "nameless", "stranger"])
async def test_nobody_but_envoy_may_ask_the_picker(scene: Scene, client: str) -> None:
    """Others have no certificate that it trusts."""
    trusted = (scene.tls / "ca.crt").read_bytes()
    own = sign(scene.stranger, NAME)
    pair = [(own / name).read_bytes() for name in ("tls.key", "tls.crt")]
    credentials = {
        "plain": None,
        "nameless": grpc.ssl_channel_credentials(trusted),
        "stranger": grpc.ssl_channel_credentials(trusted, *pair),
    }[client]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await check(scene.picker_address, credentials)
    assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    known = sign(scene.trusted, NAME)
    await check(
        scene.picker_address,
        grpc.ssl_channel_credentials(trusted, *[(known / name).read_bytes() for name in ("tls.key", "tls.crt")]),
    )


async def test_a_new_certificate_is_shown_without_a_restart(scene: Scene) -> None:
    """By the picker and by Envoy; requests are placed all the while."""
    address = scene.picker_address
    context = trusting(scene.tls)
    context.load_cert_chain(scene.tls / "tls.crt", scene.tls / "tls.key")
    picker = scene.gateway.up.children()["picker"]
    host, _, port = address.rpartition(":")

    async def shown() -> str:
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=NAME)
        certificate = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        return str(certificate["serialNumber"])

    before = await shown()
    put(scene.tls, sign(scene.trusted, NAME), "tls.crt", "tls.key")

    async def is_new() -> bool:
        return await shown() != before

    await until(is_new, START_S)
    placed = await scene.placed()
    await scene.ask()
    assert await scene.placed() == placed + 4
    assert scene.gateway.up.children()["picker"] == picker


@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_picker_that_envoy_does_not_trust_is_not_asked(scene: Scene, wrong: str) -> None:
    """Requests go round robin until it shows a certificate that is right."""
    signer, name = (scene.stranger, NAME) if wrong == "authority" else (scene.trusted, "somebody-else")
    put(scene.tls, sign(signer, name), "tls.crt", "tls.key")
    await scene.restart_picker()
    await scene.gateway.picker_is_given_up()
    assert sorted(await engines_asked(scene.gateway.session, scene.gateway.up.url(8081), 4)) == [
        *("one", "one", "two", "two")
    ]
    assert await scene.placed() == 0
    put(scene.tls, sign(scene.trusted, NAME), "tls.crt", "tls.key")

    async def is_asked() -> bool:
        await scene.ask()
        return await scene.placed() > 0

    await until(is_asked, START_S)


async def test_no_key_leaves_the_directory(scene: Scene) -> None:
    """Envoy and the picker read it there; it is in no other file, no log and no dump."""
    key = (scene.tls / "tls.key").read_text().splitlines()[1]
    files = [path for path in scene.gateway.up.state.rglob("*") if path.is_file()]
    assert [path for path in files if key in path.read_text(errors="replace")] == []
    async with scene.gateway.session.get(f"{scene.gateway.up.admin}/config_dump") as answer:
        assert key not in await answer.text()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("tls.crt", "tls.key"), "ca.crt: No such file or directory; it must hold tls.crt, tls.key, ca.crt"),
        (("ca.crt", "tls.crt"), "tls.key: No such file or directory; it must hold tls.crt, tls.key, ca.crt"),
    ],
)
async def test_a_directory_that_lacks_something_is_refused(tmp_path: Path, files: tuple[str, ...], told: str) -> None:
    tls = tmp_path / "tls"
    tls.mkdir()
    put(tls, sign(authority(tmp_path / "authority"), NAME), *files)
    (tmp_path / "manifests.yaml").write_text("")
    code, output = await run_up(tmp_path / "manifests.yaml", tmp_path / "state", "--picker-tls", str(tls))
    assert code == 2
    assert output.strip() == f"problem: --picker-tls: {tls}/{told}"
