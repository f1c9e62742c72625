"""The API server goes away and comes back while a picker watches it: nothing is lost, nothing is missed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_cluster import apiserver, processes
from igw_cluster.apiserver import ApiServer, running_api_server
from igw_testing.kube import require_built
from igw_testing.picker import PickerProcess, eventually, running
from igw_testing.picker_objects import RIGHTS, RIGHTS_ON_PODS, Api, pool_of

NAME, PODS = Key("default", "igw-main-http"), "kube-public"


def _server_process(server: ApiServer) -> psutil.Process:
    """Ours, among the children of this process, by the port it listens on."""
    port = f"--secure-port={server.url.rpartition(':')[2]}"
    (found,) = [one for one in psutil.Process().children() if port in one.cmdline()]
    return found


@contextmanager
def restarted(command: list[str], server: ApiServer, log: Path) -> Iterator[None]:
    """The same server again, on the same port and storage."""
    again = processes.start("kube-apiserver", list(command), log)
    try:
        again.wait_ready(lambda: apiserver.is_ready(server.url, server.credentials), 60)
        yield
    finally:
        again.stop()


async def knows(picker: PickerProcess, *addresses: str, seconds: float = 15.0) -> None:
    """Wait until the picker knows exactly these."""

    async def is_so() -> bool:
        _, text = await picker.get("/metrics")
        return {one for one in ALL if f'available{{endpoint="{one}"}}' in text} == set(addresses)

    await eventually(is_so, f"{addresses}\n{picker.log.read_text()}", seconds)


ALL = ("127.1.9.1:8000", "127.1.9.2:8000")


async def test_a_restart_of_the_api_server_costs_no_endpoint_and_later_changes_arrive(tmp_path: Path) -> None:
    """While it is away the picker serves what it knows; afterwards it hears of everything again."""
    require_built("kube-apiserver")
    with running_api_server(tmp_path / "server") as server:
        server.kubectl.apply(RIGHTS.format(namespace=NAME.namespace, name=NAME.name))
        server.kubectl.apply(RIGHTS_ON_PODS.format(namespace=NAME.namespace, name=NAME.name, pods=PODS))
        kubeconfig = server.kubeconfig_of(*NAME)
        async with Api.of(server) as api:
            await api.configure(NAME, ObjectSet.of([pool_of(PODS, "llm")]))
            one, two = await api.make_ready_pods(PODS, "llm", ["127.1.9.1", "127.1.9.2"])
        options = ("--kubernetes", str(NAME), "--kubeconfig", str(kubeconfig))
        async with running(tmp_path / "p", "http2", *options) as picker:
            await knows(picker, *ALL)
            process = _server_process(server)
            command = process.cmdline()
            process.kill()
            process.wait(10)

            async def noticed() -> bool:
                return "watch interrupted" in picker.log.read_text()

            await eventually(noticed, "the end is noticed")
            await knows(picker, *ALL)
            assert (await picker.get("/readyz"))[0] == 200
            with restarted(command, server, tmp_path / "again.log"):
                async with Api.of(server) as api:
                    await api.set_ready(one, "127.1.9.1", ready=False)
                    await knows(picker, ALL[1])
                    await api.delete_pod(two)
                    await knows(picker, seconds=1.0)
                    await api.set_ready(one, "127.1.9.1")
                    await knows(picker, ALL[0], seconds=1.0)
