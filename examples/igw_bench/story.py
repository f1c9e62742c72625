"""The demo's story: start the scene, run the load under each policy, compare, and invite the reader to try.

Prints what a reader needs, in order. `demo` starts it, cancels it at a signal, and stops the scene afterwards.
"""

import asyncio
from dataclasses import dataclass, field

from rich.console import Console

from igw_bench import load, progress, report
from igw_bench.children import NotStarted
from igw_bench.scene import LLM_PORT, PLAIN_PORT, BadScene, Scene, Simulation, is_free

EXIT_ANSWERED, EXIT_UNANSWERED, EXIT_NOT_STARTED = 0, 1, 2
BASELINE = "round-robin"
SEED = 1


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for. `requests` is for each policy."""

    once: bool
    requests: int
    concurrency: int
    any_ports: bool
    simulation: Simulation


@dataclass(slots=True)
class Story:
    """One demo. `exit_code` once it is `finished`."""

    options: Options
    console: Console
    scene: Scene
    finished: bool = False
    phases: list[report.Phase] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """What became of the requests."""
        return EXIT_UNANSWERED if any(phase.tally.failed for phase in self.phases) else EXIT_ANSWERED

    async def run(self) -> int:
        """The whole story. Returns the exit code. Stopping the scene is the caller's."""
        try:
            model = await self._start()
            self._announce_load()
            for policy in dict.fromkeys((BASELINE, self.scene.wanted())):
                if self.phases:
                    await self.scene.change_policy(policy)
                self.phases.append(await self._phase(model, policy))
        except (NotStarted, BadScene) as error:
            self._say(f"igw demo: {error}")
            return EXIT_NOT_STARTED
        self._report()
        self.finished = True
        if not self.options.once:
            self._invite(model)
            await self._stay()
        return self.exit_code

    async def _start(self) -> str:
        """Start everything, and say where it is. Returns the model to ask for."""
        options, scene = self.options, self.scene
        scene.prepare()
        model, engines_model = scene.served_model()
        self._say(f"Starting {len(scene.engines)} simulated engines, the picker and Envoy ...")
        # They know the clients' name too: if the picker were lost, nobody would rewrite it, and all should go on.
        await scene.start_engines(options.simulation, (engines_model, model))
        for engine in scene.engines:
            self._say(f"  {engine.name:9} {engine.label:9} {scene.addresses[engine.name]}")
        await scene.start_gateway(BASELINE, self._listens())
        self._say(f"  gateway   LLM port  127.0.0.1:{scene.ports[LLM_PORT]}   the picker chooses the engine")
        self._say(f"            plain     127.0.0.1:{scene.ports[PLAIN_PORT]}   Envoy alone")
        return model

    def _listens(self) -> list[str]:
        """Other ports for those that are taken."""
        declared = self.scene.declared_ports()
        if self.options.any_ports:
            return [f"{port}=0" for port in declared]
        taken = [port for port in declared if not is_free(port)]
        for port in taken:
            self._say(f"  port {port} is in use by another program; the gateway takes a free one instead")
        return [f"{port}=0" for port in taken]

    def _announce_load(self) -> None:
        options, shape = self.options, load.SHAPE
        simulation = options.simulation
        self._say(
            f"\nEngine times are simulated: igw sim's {simulation.preset}, {simulation.time_scale:g} times as fast.\n"
            f"The load: {options.requests} chat requests under each policy, {options.concurrency} at a time, "
            f"{shape.streaming:.0%} streaming,\n"
            f"from {shape.tenants} tenants, each with its own system prompt of {shape.system_chars // 1000} kB.\n"
        )

    async def _phase(self, model: str, policy: str) -> report.Phase:
        options = self.options
        asked = load.questions(load.SHAPE, options.requests, SEED, policy)
        tally = load.Tally(len(asked))
        clock = asyncio.get_running_loop().time
        async with load.client(self.scene.ports[LLM_PORT]) as client, progress.shown(self.console, policy, tally):
            began = clock()
            await load.run(client, model, asked, options.concurrency, tally)
            return report.Phase(policy, tally, clock() - began)

    def _report(self) -> None:
        self._say("")
        self.console.print(report.table(self.phases, {engine.name: engine.label for engine in self.scene.engines}))
        self._say(f"{report.CAPTION}\n")
        baseline, *others = self.phases
        verdicts = (line for other in others for line in report.verdict(baseline, other))
        for line in (*verdicts, *report.failures(self.phases)):
            self._say(line)

    def _invite(self, model: str) -> None:
        """How to go on from here."""
        url = f"http://127.0.0.1:{self.scene.ports[LLM_PORT]}/v1/chat/completions"
        kind = "-H 'content-type: application/json'"
        body = f'"model": "{model}", "max_tokens": 30, "messages": [{{"role": "user", "content": "Hello"}}]'
        self._say(
            f"\nTry it, streaming and whole; the header x-sim-engine says which engine answered:\n"
            f"  curl -iN {url} {kind} -d '{{\"stream\": true, {body}}}'\n"
            f"  curl -i {url} {kind} -d '{{{body}}}'\n"
            f"Metrics    {self.scene.metrics}\n"
            f"Manifests  {self.scene.folder} (change them: the gateway follows)\n"
            f"Logs       {self.scene.logs} and {self.scene.state}\n"
            f"Ctrl-C stops everything and removes these files."
        )

    async def _stay(self) -> None:
        """Until cancelled. An engine may end, for instance because the reader ended it."""
        told: set[str] = set()
        while True:
            for child in self.scene.ended():
                if child.name not in told:
                    told.add(child.name)
                    self._say(f"{child.name} ended:\n{child.last_lines()}")
            await asyncio.sleep(0.5)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
