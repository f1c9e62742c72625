"""What is asked of a target: which requests, when, and with which texts.

Pure: options and a seed in, a `Plan` out; the same give the same. The workloads by letter are those of the offline
benchmark; the others take their sizes from options. Called by `campaign`; `loops` and `virtual` run a plan.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from random import Random

from igw_bench.command import sharegpt, trace
from igw_bench.command.samples import BadInput
from igw_bench.command.texts import (
    MESSAGE_TOKENS,
    TEMPLATE_TOKENS,
    Piece,
    blocks_of,
    named,
    pieces_of,
    prefix_of,
)
from igw_bench.prefill_decode import prefill_heavy
from igw_bench.workloads import WORKLOADS, Chat, Job, Next, Workload
from igw_sim.presets import PRESETS, Preset

LETTERED: Mapping[str, Callable[[Random], Workload]] = {**WORKLOADS, "E": prefill_heavy}
PRESET = "a10-llama2-7b"
ENGINES = 4
REQUESTS = 1_000
CLIENTS = 32
# A closed loop that only a duration ends: nobody answers faster than this, requests a second for each client.
_FASTEST = 20.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What the command line says of the load. None: as the workload has it. Sizes are tokens, times seconds."""

    workload: str = "sharegpt"
    requests: int | None = None
    duration: float | None = None
    rate: float | None = None
    clients: int | None = None
    warmup: float | None = None
    trace: Path | None = None
    trace_speed: float = 1.0
    tenants: int = 20
    prefix_tokens: int = 1_000
    question_tokens: int = 100
    answer_tokens: int = 200
    turns: int = 4
    think: float = 1.0
    preset: str | None = None
    engines: int | None = None
    longest: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A load. `left_out`: requests that are too long for a target.

    `texts`: the new text of a request, where its blocks do not say it; `words`: where somebody wrote it.
    """

    workload: Workload
    texts: Mapping[int, tuple[Piece, ...]] = field(default_factory=dict)
    left_out: int = 0
    words: Mapping[int, str] = field(default_factory=dict)

    def pieces(self, job: Job) -> tuple[Piece, ...]:
        """The text that this request adds to what was said before."""
        found = self.texts.get(job.number)
        return pieces_of(job, self.workload.fleet[0].limits.block_tokens) if found is None else found

    @property
    def total(self) -> int:
        """Requests, if nothing ends the load before."""
        return len(self.workload.jobs) + len(self.workload.follow)


_Draft = tuple[tuple[Job, ...], dict[int, tuple[Piece, ...]], dict[int, Next]]


def build(shape: Shape, seed: int) -> Plan:
    """BadInput for options that do not go together."""
    rng = Random(seed)
    if shape.workload in LETTERED:
        plan = Plan(_lettered(shape, rng))
    elif shape.workload == "trace":
        plan = _traced(shape, rng)
    else:
        plan = _synthetic(shape, rng)
    workload = plan.workload
    changed = replace(
        workload,
        until=math.inf if shape.duration is None else shape.duration,
        measured_from=workload.measured_from if shape.warmup is None else shape.warmup,
    )
    _check(changed, shape)
    return replace(plan, workload=changed)


def _check(workload: Workload, shape: Shape) -> None:
    longest = _longest(shape, workload.fleet[0])
    most = max((job.prompt_tokens + job.output_tokens for job in workload.jobs), default=longest + 1)
    if most > longest:
        raise BadInput(f"a request of {most} tokens does not fit into {longest}: see --longest and --preset")


# ------------------------------------------------------------------------------------------------ by letter


def _lettered(shape: Shape, rng: Random) -> Workload:
    workload = LETTERED[shape.workload](rng)
    if shape.requests is not None:
        if shape.requests > len(workload.jobs):
            raise BadInput(f"workload {shape.workload} has {len(workload.jobs)} requests, not {shape.requests}")
        jobs = workload.jobs[: shape.requests]
        workload = replace(workload, jobs=jobs, arrivals=workload.arrivals[: shape.requests])
    if shape.preset is not None or shape.engines is not None:
        if workload.changes or any(job.blocks for job in workload.jobs):
            raise BadInput(f"workload {shape.workload} has a fleet of its own: no --preset and no --engines")
        workload = replace(workload, fleet=fleet(shape, workload.fleet))
    if not any(job.blocks for job in workload.jobs):
        # Offline such requests find nothing in a cache, not even what they had before a preemption. With real texts
        # they would, and a full engine would recover sooner.
        workload = replace(workload, fleet=tuple(_without_cache(one) for one in workload.fleet))
    return _paced(workload, shape, rng)


def _without_cache(preset: Preset) -> Preset:
    return replace(preset, limits=replace(preset.limits, prefix_cache=False))


def fleet(shape: Shape, own: Sequence[Preset] = ()) -> tuple[Preset, ...]:
    """The engines that are simulated. BadInput for an unknown preset."""
    if shape.preset is not None and shape.preset not in PRESETS:
        raise BadInput(f"--preset {shape.preset}: no such preset; there are {', '.join(PRESETS)}")
    preset = PRESETS[shape.preset] if shape.preset else own[0] if own else PRESETS[PRESET]
    return (preset,) * (shape.engines or len(own) or ENGINES)


def _paced(workload: Workload, shape: Shape, rng: Random) -> Workload:
    """With another rate or number of clients, if asked for."""
    if shape.rate is not None:
        return replace(workload, clients=0, arrivals=poisson(len(workload.jobs), shape.rate, rng))
    if shape.clients is not None:
        return replace(workload, clients=shape.clients, arrivals=())
    return workload


def poisson(count: int, rate: float, rng: Random) -> tuple[float, ...]:
    """Times of `count` independent arrivals, `rate` a second."""
    return tuple(accumulate(rng.expovariate(rate) for _ in range(count)))


# ------------------------------------------------------------------------------------------------ synthetic


def _synthetic(shape: Shape, rng: Random) -> Plan:
    if shape.workload not in _SYNTHETIC:
        raise BadInput(f"--workload {shape.workload}: no such workload; there are {', '.join(names())}")
    engines = fleet(shape)
    jobs, texts, follow = _SYNTHETIC[shape.workload](shape, _count(shape), engines[0], rng)
    clients = 0 if shape.rate is not None else CLIENTS
    workload = Workload(shape.workload, engines, jobs, clients=clients, follow=follow)
    return Plan(_paced(workload, shape, rng), texts)


def _count(shape: Shape) -> int:
    if shape.requests is not None:
        return shape.requests
    if shape.duration is None:
        return REQUESTS
    rate = shape.rate * 1.5 if shape.rate is not None else (shape.clients or CLIENTS) * _FASTEST
    return min(round(rate * shape.duration) + 100, 100_000)


def _longest(shape: Shape, engine: Preset) -> int:
    """Tokens that a prompt and its answer may have together."""
    return engine.limits.longest if shape.longest is None else shape.longest


def _sharegpt(shape: Shape, count: int, engine: Preset, rng: Random) -> _Draft:
    """Nothing shared; lengths as those of ShareGPT."""
    texts: dict[int, tuple[Piece, ...]] = {}
    lengths, jobs = Chat(), []
    for number in range(count):
        prompt, answer = lengths.draw(rng)
        texts[number] = (Piece(named(6, number), max(1, prompt - TEMPLATE_TOKENS)),)
        jobs.append(_job(number, texts[number], answer, engine, 0))
    return tuple(jobs), texts, {}


def _prefixes(shape: Shape, count: int, engine: Preset, rng: Random) -> _Draft:
    """Tenants with a system prompt each, and a question of its own behind it in every request."""
    texts: dict[int, tuple[Piece, ...]] = {}
    jobs = []
    for number in range(count):
        tenant = rng.randrange(shape.tenants)
        question, answer = _near(shape.question_tokens, rng), _near(shape.answer_tokens, rng)
        texts[number] = (Piece(named(5, tenant), shape.prefix_tokens), Piece(named(6, number), question))
        jobs.append(_job(number, texts[number], answer, engine, tenant))
    return tuple(jobs), texts, {}


def _chats(shape: Shape, count: int, engine: Preset, rng: Random) -> _Draft:
    """Conversations: each turn sends all that was said before, and follows `think` seconds after the answer.

    One ends when it would become too long for an engine.
    """
    roots: list[Job] = []
    texts: dict[int, tuple[Piece, ...]] = {}
    follow: dict[int, Next] = {}
    while len(texts) < count:
        tenant = rng.randrange(shape.tenants)
        said: list[Piece] = [Piece(named(5, tenant), shape.prefix_tokens)]
        for turn in range(rng.randint(1, 2 * shape.turns - 1)):
            number = len(texts)
            question = Piece(named(6, number), _near(shape.question_tokens, rng))
            answer = _near(shape.answer_tokens, rng)
            job = _job(number, (*said, question), answer, engine, tenant, 2 * turn + 1)
            if number == count or job.prompt_tokens + answer > _longest(shape, engine):
                break
            texts[number] = (*said, question) if turn == 0 else (question,)
            if turn == 0:
                roots.append(job)
            else:
                follow[number - 1] = Next(job, rng.expovariate(1 / shape.think) if shape.think else 0.0)
            said += [question, Piece(named(7, number), answer)]
        else:
            continue
        if said[1:] == []:
            raise BadInput(f"a conversation of these lengths has no room in {_longest(shape, engine)} tokens")
    return tuple(roots), texts, follow


def _job(number: int, prompt: Sequence[Piece], answer: int, engine: Preset, tenant: int, messages: int = 1) -> Job:
    """The offline picture of a request. The template's tokens count, though they have no place in it."""
    tokens = sum(one.tokens for one in prompt) + TEMPLATE_TOKENS + (messages - 1) * MESSAGE_TOKENS
    blocks = blocks_of((*prompt, Piece(named(7, number), answer)), engine.limits.block_tokens)
    return Job(number, tokens, answer, prefix_of(prompt), blocks, tenant)


def _near(median: int, rng: Random, sigma: float = 0.5) -> int:
    """A length around `median`, log-normal, at most four times as long."""
    return max(1, min(round(median * rng.lognormvariate(0.0, sigma)), 4 * median))


_SYNTHETIC: dict[str, Callable[[Shape, int, Preset, Random], _Draft]] = {
    "sharegpt": _sharegpt,
    "prefixes": _prefixes,
    "chats": _chats,
}


def names() -> Iterable[str]:
    """Every workload there is."""
    return (*_SYNTHETIC, "trace", *LETTERED)


# ------------------------------------------------------------------------------------------------ trace


def _traced(shape: Shape, rng: Random) -> Plan:
    if shape.trace is None:
        raise BadInput("--workload trace needs --trace FILE")
    if sharegpt.looks_so(shape.trace):
        return _conversations(shape, shape.trace, rng)
    engines = fleet(shape)
    longest = _longest(shape, engines[0])
    found = trace.read(shape.trace)[: shape.requests]
    entries = [one for one in found if one.prompt_tokens + one.output_tokens <= longest]
    if not entries:
        raise BadInput(f"{shape.trace}: no request fits into {longest} tokens: see --longest and --preset")
    workload = Workload(
        "trace",
        engines,
        # The length of a line is that of the whole prompt: the template's tokens are cut from its end.
        tuple(
            replace(_job(number, one.prompt, one.output_tokens, engines[0], 0), prompt_tokens=one.prompt_tokens)
            for number, one in enumerate(entries)
        ),
        arrivals=tuple(one.at / shape.trace_speed for one in entries),
    )
    texts = {number: one.prompt for number, one in enumerate(entries)}
    return Plan(_paced(workload, shape, rng), texts, len(found) - len(entries))


def _conversations(shape: Shape, path: Path, rng: Random) -> Plan:
    """Questions that somebody asked, drawn at random. They have no times."""
    engines = fleet(shape)
    longest = _longest(shape, engines[0])
    found = list(sharegpt.read(path))
    rng.shuffle(found)
    found = found[: _count(shape)]
    fitting = [one for one in found if one.question_tokens + TEMPLATE_TOKENS + one.answer_tokens <= longest]
    if not fitting:
        raise BadInput(f"{path}: no conversation fits into {longest} tokens: see --longest and --preset")
    jobs = tuple(
        _job(number, (Piece(named(6, number), one.question_tokens),), one.answer_tokens, engines[0], 0)
        for number, one in enumerate(fitting)
    )
    workload = Workload("trace", engines, jobs, clients=0 if shape.rate is not None else CLIENTS)
    words = {number: one.question for number, one in enumerate(fitting)}
    return Plan(_paced(workload, shape, rng), left_out=len(found) - len(fitting), words=words)
