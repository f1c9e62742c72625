"""An engine as the picker's scraper sees it: an HTTP server with a vLLM `/metrics` page whose numbers a test sets.

Names and labels are written out here and not shared with the picker, so that a wrong name there fails a test here.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

# 100,000 KV tokens: what a 7B model leaves on one data-centre GPU, to two digits.
BLOCKS, BLOCK_TOKENS = 6250, 16


@dataclass(slots=True)
class EngineStub:
    """What the page says; change a field and the next scrape tells it. `port` 0: the system chooses."""

    waiting: int = 0
    kv: float = 0.0  # share of the KV cache in use
    running: int = 0
    adapters: tuple[str, ...] = ()  # in the batch now
    max_adapters: int | None = None  # None: the engine serves no adapters
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def address(self) -> str:
        """As the picker names it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def page(self) -> str:
        """The exposition text."""
        labels = 'engine="0",model_name="tiny"'
        lines = [
            f"vllm:num_requests_running{{{labels}}} {float(self.running)}",
            f"vllm:num_requests_waiting{{{labels}}} {float(self.waiting)}",
            f"vllm:kv_cache_usage_perc{{{labels}}} {self.kv}",
            f'vllm:cache_config_info{{block_size="{BLOCK_TOKENS}",engine="0",num_gpu_blocks="{BLOCKS}"}} 1.0',
        ]
        if self.max_adapters is not None:
            running = ",".join(self.adapters)
            labels = f'max_lora="{self.max_adapters}",running_lora_adapters="{running}",waiting_lora_adapters=""'
            lines.append(f"vllm:lora_requests_info{{{labels}}} 1.7293424415e+09")
        return "\n".join(lines) + "\n"


@asynccontextmanager
async def serving(*stubs: EngineStub) -> AsyncIterator[None]:
    """Every stub answers on its address; a port that was 0 is filled in."""
    async with AsyncExitStack() as stack:
        for stub in stubs:
            await stack.enter_async_context(_serving(stub))
        yield


@asynccontextmanager
async def _serving(stub: EngineStub) -> AsyncIterator[None]:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=stub.page())

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    # An open keep-alive connection of the scraper must not hold up the end of a test.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, stub.host, stub.port, reuse_port=False).start()
        stub.port = int(runner.addresses[0][1])
        yield
    finally:
        await runner.cleanup()
