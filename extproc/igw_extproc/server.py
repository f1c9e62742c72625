"""The picker's process: builds the parts, runs them in one TaskGroup, and drains. Called by `cli`."""

import asyncio
import logging
import math
import random
import resource
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Protocol

from igw_extproc import codec, telemetry
from igw_extproc.admission import Admission
from igw_extproc.conversation import Picker
from igw_extproc.datastore import Datastore
from igw_extproc.director import Director
from igw_extproc.flowcontrol.queue import QueueStatistics
from igw_extproc.gpu_watch import GpuWatch
from igw_extproc.grpc_transport import GrpcServer
from igw_extproc.health import Health, HealthStatistics
from igw_extproc.http2 import Http2Server, Limits
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers, LedgerStatistics
from igw_extproc.metering import MeterStatistics
from igw_extproc.overflow import StandbyStatistics
from igw_extproc.overview import overview
from igw_extproc.pages import Pages
from igw_extproc.reports import Reports
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_extproc.scheduling.shadow import ShadowStatistics
from igw_extproc.scheduling.split import SplitStatistics
from igw_extproc.scraper import Scraper, ScraperStatistics
from igw_extproc.settings import Settings, TransportName
from igw_extproc.sources import files, kube_access, kubernetes
from igw_extproc.tls import TlsFiles, server_context, server_credentials
from igw_extproc.transport import Methods

log = logging.getLogger(__name__)


class Server(Protocol):
    """What both transports offer."""

    async def start(self, host: str, port: int) -> int: ...
    async def drain(self, grace: float) -> None: ...


class Parts:
    """All long-lived objects of one picker, wired but not started."""

    def __init__(self, settings: Settings, clock: Callable[[], float], rng: random.Random) -> None:
        self.datastore = Datastore(settings.policy, clock)
        self.index = PrefixIndex()
        self.ledgers = Ledgers(gone=self._forget, changed=self._endpoint_changed)
        self.scraper = Scraper(self.ledgers, rng, self._in_flight)
        self.gpus = GpuWatch(self.ledgers)
        self.telemetry = telemetry.Telemetry()
        self.draining = False
        self.health = Health(self._endpoint_changed, self._arm)
        self.director = Director(self.datastore, self.ledgers, self.index, rng, health=self.health)
        self.admission = Admission(self.director, secrets.token_bytes(32), self._arm)
        self.clock = clock
        self.reports = Reports(self.director, self.ledgers, clock, self.scraper.refresh)
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self.picker = Picker(
            self.director,
            self.telemetry,
            clock,
            settings.max_body_bytes,
            suspect=self.scraper.refresh,
            ready=lambda: self.datastore.synced and not self.draining,
            admission=self.admission,
        )
        self.datastore.subscribe(self._objects_changed)

    def _in_flight(self, address: str) -> int:
        ledger = self.ledgers.get(address)
        return ledger.requests if ledger is not None else 0

    def _forget(self, slot: int) -> None:
        self.index.forget(slot)
        self.director.shadows.forget(slot)
        self.health.forget(slot)

    def _objects_changed(self) -> None:
        endpoints = self.datastore.endpoints()
        self.ledgers.sync(endpoints)
        self.director.refresh()
        self.scraper.sync(endpoints)
        self.gpus.sync(endpoints)
        self.telemetry.keep_endpoints({endpoint.address for endpoint in endpoints})
        self.admission.refresh(self.clock())

    def _endpoint_changed(self, ledger: Ledger) -> None:
        if self.admission.waiting:
            self.admission.wake(ledger, self.clock())

    def _arm(self, due: float) -> None:
        """Call `_ring` at `due` or before; it looks when it is due again."""
        if due >= self._rings_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = due
        self._alarm = asyncio.get_running_loop().call_later(max(due - self.clock(), 0.0), self._ring)

    def _ring(self) -> None:
        self._rings_at = math.inf
        self.health.tick(self.clock())
        self.admission.expire(self.clock())
        due, next_state = self.admission.due(), self.health.due()
        if due is not None or next_state < math.inf:
            self._arm(next_state if due is None else min(due, next_state))


async def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises OSError for a taken port, files.BadObjects for objects we cannot serve, NoAccess without a way to Kubernetes,
    tls.Unusable for certificates that no server can use.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Ties between equal endpoints are broken by this; nothing secret depends on it.
    rng = random.Random()
    parts = Parts(settings, perf_counter, rng)
    if settings.kubernetes is None:
        parts.datastore.replace(await asyncio.to_thread(files.load, settings.objects))
        source = files.watch(settings.objects, parts.datastore, stop)
    else:
        await asyncio.to_thread(kube_access.load, settings.kubeconfig)
        source = kubernetes.watch(settings.kubernetes, settings.kubeconfig, parts.datastore, rng)
    async with asyncio.TaskGroup() as group:
        scraping = group.create_task(parts.scraper.run(), name="scraper")
        watching = group.create_task(source, name="objects")
        gpus = group.create_task(parts.gpus.run(), name="gpus")
        # The metrics first: if that port is taken, no proxy has been let in yet.
        metrics, metrics_port = await _pages(parts).serve(settings.host, settings.metrics_port)
        server = _server(settings, {**parts.picker.methods(), **parts.reports.methods()}, group)
        port = await server.start(settings.host, settings.port)
        announce(
            f"igw picker listening transport={settings.transport} address={settings.host}:{port} "
            f"metrics={settings.host}:{metrics_port}"
        )
        await stop.wait()
        log.info("draining seconds=%.1f", settings.drain_seconds)
        parts.draining = True
        parts.reports.close()
        await server.drain(settings.drain_seconds)
        await metrics.cleanup()
        for task in (scraping, watching, gpus):
            task.cancel()


def _server(settings: Settings, methods: Methods, group: asyncio.TaskGroup) -> Server:
    files = _tls_files(settings)
    if settings.transport is TransportName.GRPC:
        credentials = server_credentials(files) if files is not None else None
        return GrpcServer(methods, group, settings.max_body_bytes + _SLACK, credentials)
    context = server_context(files) if files is not None else None
    limits = Limits(max_message=settings.max_body_bytes + _SLACK, max_connections=_most_connections())
    return Http2Server(methods, limits, context)


_SLACK = codec.MOST_BESIDE


def _most_connections() -> int:
    """To proxies: at most half of the file descriptors that we may have, since engines are asked over the others.

    Takes all of these that the system grants; most systems let processes begin with few.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = Limits().max_connections
    return min(wanted, most // 2) if most != resource.RLIM_INFINITY else wanted


def _tls_files(settings: Settings) -> TlsFiles | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)


class _Snapshots:
    """What telemetry reads of the other parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def endpoints(self) -> Sequence[LedgerStatistics]:
        return self._parts.ledgers.statistics()

    def scraper(self) -> ScraperStatistics:
        return self._parts.scraper.statistics()

    def prefix_entries(self) -> int:
        return len(self._parts.index)

    def queues(self) -> Mapping[str, QueueStatistics]:
        return self._parts.admission.statistics(self._parts.clock())

    def standbys(self) -> list[StandbyStatistics]:
        return self._parts.admission.overflow.statistics(self._parts.clock())

    def meters(self) -> MeterStatistics:
        return self._parts.admission.meters.statistics()

    def splits(self) -> Mapping[str, SplitStatistics]:
        return self._parts.director.splits()

    def health(self) -> HealthStatistics:
        return self._parts.health.statistics()

    def shadows(self) -> Mapping[str, ShadowStatistics]:
        return self._parts.director.shadows.statistics()

    def unseen_pools(self) -> list[str]:
        return [view.name for view in self._parts.datastore.views.values() if view.unseen]


def _pages(parts: Parts) -> Pages:
    snapshots = _Snapshots(parts)

    def state() -> dict[str, Any]:
        ejected = parts.health.statistics().ejected
        views = parts.datastore.views.values()
        return overview(views, snapshots.endpoints(), snapshots.queues(), ejected, parts.telemetry)

    registry = telemetry.registry(parts.telemetry, snapshots)
    return Pages(registry, parts.picker.history, state, parts.picker.ready, parts.clock)
