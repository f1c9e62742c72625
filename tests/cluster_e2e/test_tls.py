"""TLS under Envoy Gateway: on a listener that a pool is attached to, and between Envoy and the picker, both verified.

The same is asked of `igw up` in tests/e2e.
"""

import asyncio
import ssl
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from igw_cluster.credentials import Authority
from igw_testing.certificates import authority, secret, sign, trusting
from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.gateway_process import MODEL
from igw_testing.operator_manifests import gateway, pool
from igw_testing.product import Product, Space, engine_pods, manifest

pytestmark = pytest.mark.timeout(420)
PORT, HOST, NAME = 8443, "llm.example.test", "igw-picker"
aside = asyncio.to_thread


def https_gateway() -> str:
    """One port with a certificate, and an Envoy that shows another one to pickers."""
    proxy = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "mutual"}
    documents = list(yaml.safe_load_all(gateway(ports=(PORT,), infrastructure={"parametersRef": proxy})))
    tls = {"mode": "Terminate", "certificateRefs": [{"name": "web"}]}
    documents[-1]["spec"]["listeners"][0] |= {"protocol": "HTTPS", "hostname": HOST, "tls": tls}
    shown = {"backendTLS": {"clientCertificateRef": {"kind": "Secret", "name": "picker-tls"}}}
    return (
        yaml.safe_dump_all(documents)
        + "---\n"
        + manifest("gateway.envoyproxy.io/v1alpha1", "EnvoyProxy", "mutual", shown)
    )


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs what clients see."""
    return authority(tmp_path_factory.mktemp("web") / "web")


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs what Envoy and pickers show each other."""
    return authority(tmp_path_factory.mktemp("picker") / "picker")


def picker_secret(by: Authority, trusted: Authority) -> str:
    """A pair that `by` has signed, for those who trust another."""
    return secret(sign(by, NAME), "picker-tls", **{"ca.crt": (trusted.folder / "ca.crt").read_text()})


@pytest.fixture(scope="module")
def served(product: Product, space: Space, web: Authority, trusted: Authority) -> Iterator[Space]:
    """A pool behind TLS. Pickers have none at the end: the cluster is shared."""
    product.upgrade({"picker": {"tls": {"secretName": "picker-tls", "clientCertificates": True}}})
    space.apply(secret(sign(web, HOST)), picker_secret(trusted, trusted), https_gateway())
    space.apply(engine_pods("llm", 2), pool("llm", PORT))
    space.picker("gw", f"p{PORT}").until_sees(2)
    yield space
    product.upgrade({})


async def shown(space: Space, web: Authority) -> str:
    """The number of the certificate that clients see, which must be for the host and signed by `web`."""
    place = urllib.parse.urlsplit(await aside(space.base, "gw", PORT))
    context = trusting(web.folder, "h2", "http/1.1")
    _, writer = await asyncio.open_connection(place.hostname, place.port, ssl=context, server_hostname=HOST)
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    writer.close()
    assert found.selected_alpn_protocol() == "h2"
    certificate = found.getpeercert()
    assert certificate is not None
    return str(certificate["serialNumber"])


async def chat(space: Space, web: Authority) -> int:
    """One request; 0 while nobody answers."""
    base = (await aside(space.base, "gw", PORT)).replace("http:", "https:")
    connector = aiohttp.TCPConnector(ssl=trusting(web.folder))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
        try:
            body = chat_body(SHORT_PROMPT, tokens=1, model=MODEL)
            headers = {"host": HOST}
            url = f"{base}/v1/chat/completions"
            async with session.post(url, json=body, headers=headers, server_hostname=HOST) as answer:
                return answer.status
        except aiohttp.ClientError:
            return 0


async def until_placed(space: Space, web: Authority) -> None:
    """Wait until the picker places what is asked."""
    picker = space.picker("gw", f"p{PORT}")
    async with asyncio.timeout(120):
        before = await aside(picker.placed)
        while not (await chat(space, web) == 200 and await aside(picker.placed) > before):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.1)


async def test_requests_are_served_over_tls_and_placed_over_tls(served: Space, web: Authority) -> None:
    """The picker lets nobody ask who shows no certificate, so Envoy has shown one."""
    await until_placed(served, web)
    assert await shown(served, web)
    policy = served.get("backendtlspolicy", f"igw-gw-p{PORT}-front")
    conditions = [one for each in policy["status"]["ancestors"] for one in each["conditions"]]
    assert {one["type"]: one["status"] for one in conditions} == {"Accepted": "True", "ResolvedRefs": "True"}


async def test_a_certificate_is_replaced_under_a_running_stream(served: Space, web: Authority) -> None:
    base = (await aside(served.base, "gw", PORT)).replace("http:", "https:")
    body = {**chat_body(SHORT_PROMPT, tokens=2000, model=MODEL), "stream": True}
    before = await shown(served, web)
    connector = aiohttp.TCPConnector(ssl=trusting(web.folder))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        place = f"{base}/v1/chat/completions"
        async with session.post(place, json=body, headers={"host": HOST}, server_hostname=HOST) as stream:
            assert stream.status == 200
            await stream.content.readline()
            await aside(served.apply, secret(sign(web, HOST)))
            async with asyncio.timeout(60):
                while await shown(served, web) == before:  # noqa: ASYNC110 - another process's state
                    await asyncio.sleep(0.1)
            assert await stream.content.readline()


async def test_a_picker_that_envoy_does_not_trust_is_not_asked(
    served: Space, web: Authority, trusted: Authority, tmp_path: Path
) -> None:
    """Requests go round robin; with the right certificate it is asked again."""
    picker = served.picker("gw", f"p{PORT}")
    await aside(served.apply, picker_secret(authority(tmp_path / "stranger"), trusted))
    await aside(picker.kill)
    await aside(picker.until_sees, 2)
    assert [await chat(served, web) for _ in range(4)] == [200] * 4
    assert await aside(picker.placed) == 0
    await aside(served.apply, picker_secret(trusted, trusted))
    await aside(picker.kill)
    await aside(picker.until_sees, 2)
    await until_placed(served, web)
