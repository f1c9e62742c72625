"""The workloads of the offline benchmark: a fleet, the requests, when they come, and what happens to the engines.

Pure: each workload is made from a source of randomness alone, and the same seed gives the same. Prompts are no text:
a request carries the two pictures that a text would give, the picker's chain of hashes and the engine's block hashes,
made up so that they are equal exactly as far as the texts would be. Called by `policies`; run by `offline`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from math import inf
from random import Random

from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN, Prefix, chain
from igw_sim.model import Limits, Speed
from igw_sim.presets import PRESETS, Preset

# Longest prompt here, in tokens.
_LONGEST = 16_384
# Identities of texts are this far apart, so that no two of their blocks get the same number.
_SPAN = 1 << 20


@dataclass(frozen=True, slots=True)
class Job:
    """One request. Lengths are in tokens; nobody but the engine may look at `output_tokens`."""

    number: int
    prompt_tokens: int
    output_tokens: int
    prefix: Prefix = ()
    blocks: tuple[int, ...] = ()
    tenant: int = 0
    max_tokens: int | None = None  # the bound that the request states, if any
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one engine at `at` seconds: its steps take `slowness` times as long; None: it dies.

    A change of a dead engine brings it back, with an empty cache.
    """

    at: float
    endpoint: int
    slowness: float | None


@dataclass(frozen=True, slots=True)
class Next:
    """A request that is sent `think` seconds after another was answered: the next turn of a conversation."""

    job: Job
    think: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests for a fleet. Closed loop: `clients` send one after the other. Open loop: job i comes at `arrivals[i]`.

    Only requests sent from `measured_from` on count in latencies: caches are cold before. `follow`: what comes after a
    job, by its number; a client of a closed loop goes through these before it takes another. Nothing is sent from
    `until` on.
    """

    name: str
    fleet: tuple[Preset, ...]
    jobs: tuple[Job, ...]
    clients: int = 0
    arrivals: tuple[float, ...] = ()
    changes: tuple[Change, ...] = ()
    measured_from: float = 0.0
    follow: Mapping[int, Next] = field(default_factory=dict)
    until: float = inf


# ------------------------------------------------------------------------------------------------ prompts


@cache
def boundaries(longest: int = _LONGEST) -> tuple[tuple[int, int], ...]:
    """Where the picker hashes a prompt, as its own function has it: (position, tokens that a prompt needs for it).

    Positions are bytes; one that is no whole token needs the next token too.
    """
    found = []
    for at, (_, end) in enumerate(chain(bytes(longest * BYTES_PER_TOKEN), 0)):
        reached = len(chain(bytes(end * BYTES_PER_TOKEN), 0)) > at
        found.append((end, end if reached else end + 1))
    return tuple(found)


def prompt_chain(shared: int, shared_tokens: int, own: int, prompt_tokens: int) -> Prefix:
    """What `chain` finds in a prompt whose first `shared_tokens` are text number `shared`, and the rest number `own`.

    The picker sees bytes, so a chain ends at the last boundary within the prompt.
    """
    return tuple(
        ((shared if needed <= shared_tokens else own) * _SPAN + end, end)
        for end, needed in boundaries()
        if needed <= prompt_tokens
    )


def block_hashes(shared: int, shared_tokens: int, own: int, tokens: int, block_tokens: int) -> tuple[int, ...]:
    """The engine's hashes of the full blocks of such a text, prompt and output together."""
    common = shared_tokens // block_tokens
    begin, end = shared * _SPAN, own * _SPAN
    return (*range(begin, begin + common), *range(end + common, end + tokens // block_tokens))


# ------------------------------------------------------------------------------------------------ lengths


@dataclass(frozen=True, slots=True)
class Chat:
    """Lengths like those of ShareGPT: log-normal, cut as vLLM's serving benchmark cuts the data set.

    It leaves out prompts and answers below 4 tokens, prompts above 1,024 and both together above 2,048. The medians
    are chosen so that what remains has the published means, 155 and 285 tokens. The spreads are not published: they are
    those at which round robin gives the published times to the first token (docs/benchmarks/policies.md).
    """

    prompt_median: float = 89.0
    prompt_sigma: float = 1.3
    output_median: float = 213.0
    output_sigma: float = 0.8

    def draw(self, rng: Random) -> tuple[int, int]:
        """Prompt and output tokens."""
        while True:
            prompt = round(self.prompt_median * rng.lognormvariate(0.0, self.prompt_sigma))
            output = round(self.output_median * rng.lognormvariate(0.0, self.output_sigma))
            if 4 <= prompt <= 1024 and output >= 4 and prompt + output <= 2048:
                return prompt, output


def _chat_jobs(count: int, lengths: Chat, rng: Random) -> tuple[Job, ...]:
    """Requests that share nothing. Whatever their text, the caches never help: they carry no hashes."""
    return tuple(Job(number, *lengths.draw(rng)) for number in range(count))


def _poisson(count: int, rate: float, rng: Random) -> tuple[float, ...]:
    return tuple(accumulate(rng.expovariate(rate) for _ in range(count)))


# ------------------------------------------------------------------------------------------------ A: placement


def decode_heavy(rng: Random, count: int = 10_000, clients: int = 160) -> Workload:
    """A. Five engines of Llama2-7B on an A10, as in the published comparison: many answers, little KV room."""
    return Workload("A", (PRESETS["a10-llama2-7b"],) * 5, _chat_jobs(count, Chat(), rng), clients=clients)


# ------------------------------------------------------------------------------------------------ B: shared prefixes

# 307,200 KV tokens, 18,000 prompt tokens/s and 12 ms a step: a 32B model on two H100, as far as it is published. Blocks
# of 64 tokens instead of 16 leave the same room, lose less than a block of a prefix, and simulate twice as fast.
_LARGE = Preset(
    Limits(kv_blocks=4_800, block_tokens=64, max_sequences=256, max_batched_tokens=8192, max_model_tokens=32_768),
    Speed(18_000, decode_step_s=0.012, decode_per_seq_s=3e-5, decode_per_kv_token_s=0.02e-6),
)
TENANTS = 150
_PREFIX = 6_000
_QUESTION = 1_200
_ANSWER = 500
# Requests a second. At the knee, the best policies just keep up: the fleet's prefill has nothing left for misses.
HALF = 18.0
KNEE = 36.0
_B_SECONDS = 120.0
_B_COLD = 30.0


def shared_prefixes(name: str, rate: float, hot: float, rng: Random, seconds: float = _B_SECONDS) -> Workload:
    """B. Tenants with prompts of their own in front of each question; `hot` is the share of the first tenant."""
    count = round(rate * seconds)
    jobs = tuple(tenant_job(number, hot, rng) for number in range(count))
    return Workload(name, (_LARGE,) * 8, jobs, arrivals=_poisson(count, rate, rng), measured_from=_B_COLD)


def tenant_job(number: int, hot: float, rng: Random) -> Job:
    """A request of workload B. Those of different numbers share at most their tenant's prefix."""
    tenant = 0 if rng.random() < hot else rng.randrange(TENANTS)
    prompt, answer = _PREFIX + _QUESTION, max(1, round(_ANSWER * rng.lognormvariate(-0.125, 0.5)))
    own = TENANTS + number
    return Job(
        number,
        prompt,
        answer,
        prompt_chain(tenant, _PREFIX, own, prompt),
        block_hashes(tenant, _PREFIX, own, prompt + answer, _LARGE.limits.block_tokens),
        tenant,
    )


# ------------------------------------------------------------------------------------------------ M: little memory

_SYSTEM = 2_000
_PEOPLE = 12


def little_memory(rng: Random, count: int = 3_000, clients: int = 56) -> Workload:
    """M. Tenants' prompts fill the caches: seven of twelve fit into one engine, and running requests need room too."""
    engine = PRESETS["a10-llama2-7b"]
    preset = Preset(engine.limits, engine.speed.faster(2.0))
    weights = [(tenant + 1) ** -0.7 for tenant in range(_PEOPLE)]
    jobs = []
    for number in range(count):
        (tenant,) = rng.choices(range(_PEOPLE), weights)
        prompt, answer = _SYSTEM + rng.randint(30, 90), max(2, min(round(60 * rng.lognormvariate(0.0, 0.5)), 200))
        own = _PEOPLE + number
        known = prompt_chain(tenant, _SYSTEM, own, prompt)
        blocks = block_hashes(tenant, _SYSTEM, own, prompt + answer, engine.limits.block_tokens)
        jobs.append(Job(number, prompt, answer, known, blocks, tenant, answer))
    return Workload("M", (preset,) * 4, tuple(jobs), clients=clients)


# ------------------------------------------------------------------------------------------------ C: mixed fleet

SLOW_AT, SLOW_UNTIL, DEAD_AT, BACK_AT = 60.0, 120.0, 150.0, 190.0
SLOW, DEAD = 1, 3


def mixed_fleet(rng: Random, rate: float = 7.0, seconds: float = 240.0) -> Workload:
    """C. A's engines, one at half speed throughout; another slows down by 3 for a minute; a third dies, and returns."""
    engine = PRESETS["a10-llama2-7b"]
    fleet = (Preset(engine.limits, engine.speed.faster(0.5)), *(engine,) * 5)
    changes = (
        Change(SLOW_AT, SLOW, 3.0),
        Change(SLOW_UNTIL, SLOW, 1.0),
        Change(DEAD_AT, DEAD, None),
        Change(BACK_AT, DEAD, 1.0),
    )
    count = round(rate * seconds)
    return Workload("C", fleet, _chat_jobs(count, Chat(), rng), arrivals=_poisson(count, rate, rng), changes=changes)


# ------------------------------------------------------------------------------------------------ D: decode-bound


def decode_bound(rng: Random, count: int = 2_500, clients: int = 200) -> Workload:
    """D. Short prompts, long answers, room for all: nothing to gain."""
    jobs = tuple(Job(number, rng.randint(50, 150), rng.randint(400, 800)) for number in range(count))
    return Workload("D", (PRESETS["h100-llama3-8b"],) * 5, jobs, clients=clients)


WORKLOADS: dict[str, Callable[[Random], Workload]] = {
    "A": decode_heavy,
    "B-half": lambda rng: shared_prefixes("B-half", HALF, 0.0, rng),
    "B-knee": lambda rng: shared_prefixes("B-knee", KNEE, 0.0, rng),
    "B-hot": lambda rng: shared_prefixes("B-hot", KNEE, 0.4, rng),
    "M": little_memory,
    "C": mixed_fleet,
    "D": decode_bound,
}


def endpoints(workload: Workload) -> Iterator[str]:
    """Their addresses, which nobody connects to."""
    return (f"10.0.0.{number}:8000" for number in range(1, len(workload.fleet) + 1))
