"""What the picker learns of simulated engines' prefix caches from their real pages, over real sockets."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest

from igw_api.objects import Key, Member, Pool
from igw_api.objectset import ObjectSet
from igw_extproc.datastore import Datastore
from igw_extproc.director import Director
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_extproc.scraper import Scraper
from igw_testing.builders import arrived, chat
from igw_testing.sims import RunningSim, running_sim, sim_settings
from igw_testing.standalone import until

TENANTS = [f"You serve tenant {number} and know all of this: " + "all there is to know, " * 200 for number in range(3)]


class Gateway:
    """A picker's parts in this process: scrapes real pages, places requests, and sends them itself."""

    def __init__(self, sims: list[RunningSim]) -> None:
        self.index = PrefixIndex()
        self.ledgers = Ledgers(gone=self.index.forget)
        self.datastore = Datastore("prefix-cache", lambda: 0.0)
        self.director = Director(self.datastore, self.ledgers, self.index, random.Random(1))
        self.scraper = Scraper(self.ledgers, random.Random(1))
        members = [Member(Key("d", sim.settings.name), sim.address[0], sim.address[1], {"app": "x"}) for sim in sims]
        self.datastore.replace(ObjectSet.of([Pool(Key("d", "p"), {"app": "x"}, (1,)), *members]))
        self.ledgers.sync(self.datastore.endpoints())
        self.director.refresh()
        self.scraper.sync(self.datastore.endpoints())
        self.names = {f"{sim.address[0]}:{sim.address[1]}": sim.settings.name for sim in sims}

    @property
    def trust(self) -> dict[str, float]:
        """By engine."""
        return {self.names[one.address]: one.cache_trust for one in self.ledgers.statistics()}

    def available(self) -> bool:
        """Whether all engines have been scraped."""
        return all(one.available for one in self.ledgers)

    async def ask(self, session: aiohttp.ClientSession, content: str, engine: str | None = None) -> str:
        """One request, to the engine that is chosen among all or to that one; its name."""
        now = asyncio.get_running_loop().time()
        subset = None if engine is None else [address for address, name in self.names.items() if name == engine]
        body = chat(model="sim-model", content=content, max_tokens=1)
        placed = self.director.place(arrived(body, subset=subset), now)
        chosen = placed.placement.destinations[0]
        async with session.post(f"http://{chosen}/v1/chat/completions", data=body) as answer:
            assert answer.status == 200
            await answer.read()
        placed.flight.first_byte(now)
        self.director.end(placed.flight, now)
        return self.names[chosen]


@asynccontextmanager
async def gateway(*engines: tuple[str, str, bool]) -> AsyncIterator[tuple[Gateway, aiohttp.ClientSession]]:
    """Before engines of these names and dialects, with a prefix cache or without."""
    async with AsyncExitStack() as stack:
        sims = [
            await stack.enter_async_context(running_sim(sim_settings(name, dialect=dialect, prefix_cache=caches)))
            for name, dialect, caches in engines
        ]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        made = Gateway(sims)
        async with asyncio.TaskGroup() as group:
            scraping = group.create_task(made.scraper.run())
            await until(made.available)
            yield made, session
            scraping.cancel()


@pytest.mark.parametrize("dialect", ["vllm", "vllm-old", "sglang"])
async def test_an_engine_without_a_cache_is_found_out_and_one_with_it_stays_trusted(dialect: str) -> None:
    """vLLM says so itself; of SGLang the hits that stay away tell."""
    async with gateway(("with", dialect, True), ("without", dialect, False)) as (made, session):

        async def told_apart() -> bool:
            for number in range(6):
                for engine in made.names.values():
                    await made.ask(session, f"{TENANTS[number % 3]} Question {number}.", engine)
            return made.trust["without"] < 0.05

        await until(told_apart, 20.0, lambda: str(made.trust))
        assert made.trust["with"] == 1.0
        # Both have seen all tenants; only one of them is known to keep anything.
        chosen = [await made.ask(session, f"{TENANTS[number % 3]} More of {number}.") for number in range(9)]
        assert chosen == ["with"] * 9
