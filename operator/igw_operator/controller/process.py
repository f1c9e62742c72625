"""The operator's process: everything started, wired and stopped. Called by `cli`.

It begins as soon as the API server answers, and waits for it as long as that takes. SIGTERM ends the passes first, then
kopf, which leaves its peering so that another replica takes over at once.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kubernetes.aio.client.api_client import ApiClient

from igw_api.objects import join_host_port
from igw_operator.controller import probes
from igw_operator.controller.decisions import Rules
from igw_operator.controller.health import Health
from igw_operator.controller.inventory import Reader
from igw_operator.controller.kube import ApiError, Kube, connection_info, credentials
from igw_operator.controller.patience import Patience
from igw_operator.controller.peers import priority
from igw_operator.controller.reconcile import Reconciler
from igw_operator.controller.store import Store
from igw_operator.controller.turn import Leadership, Turn
from igw_operator.controller.watch import watch
from igw_operator.operator_settings import OperatorSettings

CONNECT_PAUSE: Final = 2.0
STOP_TIMEOUT: Final = 10.0

log = logging.getLogger(__name__)


async def run(settings: OperatorSettings, kubeconfig: Path | None, clock: Callable[[], float]) -> int:
    """Until SIGTERM or SIGINT. Returns the exit code. Raises NoAccess, and OSError when the port is taken."""
    health = Health()
    configuration = await credentials(kubeconfig)
    runner = await probes.serve(health, *settings.operator.address)
    host, port = runner.addresses[0][:2]
    log.info("listening: address=%s", join_host_port(host, port))
    client = ApiClient(configuration)
    kube = Kube(client, health.count)
    try:
        return await _operate(settings, kube, client, health, clock)
    finally:
        await runner.cleanup()
        await kube.close()


async def _operate(
    settings: OperatorSettings, kube: Kube, client: ApiClient, health: Health, clock: Callable[[], float]
) -> int:
    stopping = _on_signals()
    dirty = asyncio.Event()
    store = Store(changed=dirty.set)
    identity = _identity()
    leadership = Leadership(settings.operator.peering, identity, priority(clock(), identity))
    reconciler = Reconciler(
        kube=kube,
        store=store,
        reader=Reader(),
        rules=Rules(settings.gateway.controller_name, settings.options),
        turn=Turn(kube, leadership, health, clock),
        patience=Patience(settings.gateway.picker_wait_seconds),
        health=health,
        clock=clock,
        dirty=dirty,
    )
    async with asyncio.TaskGroup() as group:
        if not await _reached(kube, health, stopping):
            return 0
        passes = group.create_task(reconciler.run())
        kopf_started, kopf_stop = asyncio.Event(), asyncio.Event()

        async def watching() -> None:
            try:
                await watch(
                    store,
                    lambda: connection_info(client.configuration),
                    peering=leadership.peering,
                    identity=leadership.identity,
                    priority=leadership.priority,
                    started=kopf_started,
                    stopping=kopf_stop,
                )
            finally:
                stopping.set()

        watcher = group.create_task(watching())
        group.create_task(_take_signals_back(kopf_started, stopping))
        await stopping.wait()
        log.info("stopping")
        passes.cancel()
        await asyncio.wait([passes])
        kopf_stop.set()
        await asyncio.wait([watcher], timeout=STOP_TIMEOUT)
        watcher.cancel()
    return 0


def _on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    _listen_for_signals(stopping)
    return stopping


def _listen_for_signals(stopping: asyncio.Event) -> None:
    for one in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(one, stopping.set)


async def _take_signals_back(started: asyncio.Event, stopping: asyncio.Event) -> None:
    # kopf would stop itself first, and cancel the passes in the middle of a write.
    await started.wait()
    _listen_for_signals(stopping)


async def _reached(kube: Kube, health: Health, stopping: asyncio.Event) -> bool:
    """Wait for the API server. False: stopped meanwhile."""
    while not stopping.is_set():
        try:
            version = await kube.call("GET", "/version")
        except ApiError as error:
            health.say(f"waiting for the API server: {error.message}", ready=False)
            try:
                async with asyncio.timeout(CONNECT_PAUSE):
                    await stopping.wait()
            except TimeoutError:
                continue
        else:
            log.info("connected: version=%s", version.get("gitVersion"))
            return True
    return False


def _identity() -> str:
    """This process among its peers: the Pod's name, and a part that a restarted container does not share."""
    pod = os.environ.get("POD_ID") or socket.gethostname()
    return f"{pod}-{os.urandom(3).hex()}"
