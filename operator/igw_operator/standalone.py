"""`igw up`: manifest files to a running gateway, on one machine without Kubernetes.

Reads and watches the files, keeps the configuration current, and supervises two children: Envoy and the picker. A
mistake in a file never takes down what runs. Called by `cli`; one TaskGroup holds everything.
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import aiohttp

from igw_api import wire
from igw_api.certificate import AUTHORITIES, CERTIFICATE, PRIVATE_KEY
from igw_operator import envoy, state
from igw_operator.configuration import OBJECTS_FILE, Configuration, Intent
from igw_operator.console import Console
from igw_operator.plan.model import GatewayPlan
from igw_operator.ports import PortUnavailable, choose_places
from igw_operator.process import Child, DiedAtStart
from igw_operator.render.bootstrap import BOOTSTRAP_FILE
from igw_operator.render.files import Address
from igw_operator.render.routes import table_name
from igw_operator.settings import UpSettings
from igw_operator.sources import Manifests, Unusable, check_pair

EXIT_OK, EXIT_FAILED, EXIT_REFUSED = 0, 1, 2
SETTLE = 2.0  # Envoy follows a file within milliseconds
LISTENER_TIMEOUT = 5.0
POLL = 0.05


async def up(settings: UpSettings, console: Console) -> int:
    """Run until SIGINT or SIGTERM. Returns the exit code: 0 stopped, 1 a child did not start, 2 refused to start."""
    with ExitStack() as held:
        try:
            gateway = _prepare(settings, held)
            if not await _acceptable(gateway, console):
                return EXIT_REFUSED
        except envoy.ConfigRefused as error:
            console.problem(f"Envoy refuses the configuration: {error}")
            return EXIT_REFUSED
        except (Unusable, envoy.EnvoyMissing, PortUnavailable, state.StateUnusable, OSError) as error:
            console.problem(str(error))
            return EXIT_REFUSED
        async with aiohttp.ClientSession() as session:
            return await Running(settings, gateway, console, session).run()


def _prepare(settings: UpSettings, held: ExitStack) -> Configuration:
    manifests = Manifests(settings.manifests, settings.secrets)
    manifests.check()
    if settings.picker_tls is not None:
        check_pair(settings.picker_tls, "--picker-tls")
    binary = envoy.find_binary()
    held.enter_context(state.prepare(settings.state_dir))
    places = choose_places(settings.admin_port, settings.picker_port, settings.metrics_port)
    told = {"metrics": str(places.metrics), "admin": str(places.admin)}
    state.replace(settings.state_dir / wire.PLACES_FILE, json.dumps(told).encode())
    return Configuration(settings, manifests, places, binary)


async def _acceptable(gateway: Configuration, console: Console) -> bool:
    """Whether the manifests can be started with, as they are. Says why not."""
    intent = gateway.read()
    for problem in intent.problems:
        console.problem(problem)
    if intent.problems:
        # No warnings: most would be about what the problems have taken away.
        return False
    for warning in intent.warnings:
        console.warning(warning)
    await gateway.check(intent)
    gateway.write(intent)
    return True


class Running:
    """The gateway while it runs: two children, the watch on the files, and the way out."""

    def __init__(
        self, settings: UpSettings, gateway: Configuration, console: Console, session: aiohttp.ClientSession
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._console = console
        self._admin = envoy.Admin(gateway.places.admin, session)
        self._picker = _picker_child(settings, gateway, console)
        self._envoy = _envoy_child(settings, gateway, console, self._admin)
        self._said = frozenset(gateway.current.warnings)

    async def run(self) -> int:
        """Start everything, serve until a signal, and stop everything."""
        async with _stop_signals() as stop:
            try:
                await self._start()
                await self._serve(stop)
                await self._drain(stop)
            except DiedAtStart as error:
                self._console.problem(str(error))
                return EXIT_FAILED
            finally:
                await self._envoy.stop()
                await self._picker.stop()
        self._console.event("stopped")
        return EXIT_OK

    async def _start(self) -> None:
        """The picker first, so that the first request is placed. Raises DiedAtStart."""
        await self._picker.start(self._settings.start_timeout)
        await self._envoy.start(self._settings.start_timeout)
        intent = self._gateway.current
        missing = await self._unbound(intent.plan)
        if missing:
            raise DiedAtStart(f"Envoy did not open {', '.join(missing)}: {self._envoy.last_words()}")
        self._console.overview(intent.plan, self._gateway.binds.given)
        self._console.places(self._gateway.places, self._gateway.directory)
        self._console.ready(intent.plan, self._gateway.binds.given)

    async def _serve(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._picker.keep_running(), name="picker"),
                tasks.create_task(self._envoy.keep_running(), name="envoy"),
                tasks.create_task(self._follow(), name="manifests"),
            ]
            await stop.wait()
            for task in running:
                task.cancel()

    async def _follow(self) -> None:
        """Take over changes of the files, one after the other."""
        changed = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(changed), name="watch")
            unsettled = False
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE if unsettled else None):
                        await changed.wait()
                try:
                    if changed.is_set():
                        changed.clear()
                        unsettled = await self._update() or unsettled
                    else:
                        unsettled = False
                        self._gateway.settle()
                except OSError as error:
                    # A full disk, or a directory that was taken away: what runs has all that it needs.
                    self._console.problem(f"the change was not taken over, what runs goes on: {error}")

    async def _watch(self, changed: asyncio.Event) -> None:
        async for _ in self._gateway.manifests.changes(self._settings.debounce):
            changed.set()

    async def _update(self) -> bool:
        """Read the files and make it so. Returns whether anything changed."""
        before = self._gateway.current
        intent = self._gateway.read()
        self._report(intent)
        if intent.objects == before.objects and intent.plan == before.plan:
            return False
        try:
            await self._gateway.check(intent)
        except envoy.ConfigRefused as error:
            self._console.problem(f"Envoy refuses the new configuration, the old one stays: {error}")
            return False
        self._gateway.write(intent)
        self._console.event(f"updated: {summary(before.plan, intent.plan)}")
        for missing in await self._unbound(intent.plan):
            self._console.problem(f"Envoy did not open {missing}: {self._envoy.last_words()}")
        if intent.plan.listeners != before.plan.listeners:
            self._console.ready(intent.plan, self._gateway.binds.given)
        return True

    def _report(self, intent: Intent) -> None:
        """Say what is wrong now and was not before."""
        for problem in intent.problems:
            if problem not in self._said:
                self._console.problem(problem)
        for warning in intent.warnings:
            if warning not in self._said:
                self._console.warning(warning)
        self._said = frozenset((*intent.problems, *intent.warnings))

    async def _unbound(self, plan: GatewayPlan) -> list[str]:
        """The listeners that Envoy has not opened after a while."""
        wanted = {table_name(listener): listener.label for listener in plan.listeners}
        missing = set(wanted)
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTENER_TIMEOUT):
                while missing := missing - await self._admin.listeners():  # noqa: ASYNC110 - another process's state
                    await asyncio.sleep(POLL)
        return sorted(wanted[name] for name in missing)

    async def _drain(self, stop: asyncio.Event) -> None:
        """Take no new connections, and let requests end. A second signal, or the time, cuts them."""
        stop.clear()
        await self._admin.drain()
        active = await self._admin.active_requests()
        if not active:
            return
        self._console.event(f"draining: {active} requests are running; a second Ctrl-C cuts them")
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout):
                while await self._admin.active_requests() and not stop.is_set():  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(POLL)


def summary(before: GatewayPlan, after: GatewayPlan) -> str:
    """What a change means, in a few words."""
    counts = f"{len(after.listeners)} listeners, {after.endpoints} endpoints"
    if before.listeners != after.listeners:
        return f"routes or listeners changed ({counts})"
    old = {endpoint for cluster in before.clusters for endpoint in cluster.endpoints}
    new = {endpoint for cluster in after.clusters for endpoint in cluster.endpoints}
    moves = [f"+{one}" for one in sorted(new - old)] + [f"-{one}" for one in sorted(old - new)]
    return f"{' '.join(moves) or 'no endpoint moved'} ({counts})"


def _picker_child(settings: UpSettings, gateway: Configuration, console: Console) -> Child:
    places = gateway.places
    arguments = {
        "--objects": gateway.directory / OBJECTS_FILE,
        "--host": places.picker.host,
        "--port": places.picker.port,
        "--metrics-port": places.metrics.port,
        "--transport": settings.picker_transport,
        "--log-level": settings.log_level,
    }
    if settings.picker_tls is not None:
        arguments |= {
            "--tls-certificate": settings.picker_tls / CERTIFICATE,
            "--tls-key": settings.picker_tls / PRIVATE_KEY,
            "--tls-client-ca": settings.picker_tls / AUTHORITIES,
        }
    words = [str(word) for pair in arguments.items() for word in pair]
    return Child(
        name="picker",
        command=(*settings.picker_command, *words),
        log=gateway.directory / "picker.log",
        is_ready=lambda: _accepts(places.picker),
        say=console.event,
    )


def _envoy_child(settings: UpSettings, gateway: Configuration, console: Console, admin: envoy.Admin) -> Child:
    return Child(
        name="Envoy",
        command=envoy.command(
            gateway.binary,
            gateway.directory / BOOTSTRAP_FILE,
            drain=settings.listener_drain,
            log_level=settings.log_level,
            concurrency=settings.concurrency,
        ),
        log=gateway.directory / "envoy.log",
        is_ready=admin.ready,
        say=console.event,
    )


async def _accepts(address: Address) -> bool:
    """Whether something accepts connections there."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
