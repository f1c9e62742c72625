"""What each engine calls its load: the text of a /metrics page becomes an `EngineLoad`. Pure.

One row of `ENGINES` per exporter holds the names; one function reads any row. It must not do I/O, keep state or raise
on what an engine sent: lines that cannot be read are skipped. The scraper calls it, hundreds of times a second, so it
looks for the few wanted series by `bytes.find` and never parses the page as a whole.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypedDict

from igw_api import wire
from igw_extproc.domain import EngineKind, EngineLoad


class Sample(NamedTuple):
    """One line of a page."""

    labels: Mapping[str, str]
    value: float


class Series(NamedTuple):
    """Where a number stands: a metric, the labels it must have ("" also matches a label that is absent).

    With `label`, the number is that label's value instead of the sample's: how engines publish constants.
    """

    name: bytes
    where: tuple[tuple[str, str], ...] = ()
    label: str | None = None


Product = tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one exporter. Its engine is recognised by the presence of `running` or `waiting`."""

    kind: EngineKind
    running: Series
    waiting: tuple[Series, ...]  # added up
    usage: tuple[Series, ...] = ()  # the first that is present, 0..1
    capacity: tuple[Product, ...] = ()  # tokens: the first whose factors are all present
    used: Product = ()  # tokens in use: gives usage or capacity where only the other is published
    prompt_tokens: Series | None = None
    generation_tokens: Series | None = None
    cache_hits: tuple[Series, ...] = ()  # the first that is present; the next likewise
    cache_queries: tuple[Series, ...] = ()
    cache_hit_rate: Series | None = None
    uncached: tuple[bytes, bytes] | None = None  # a metric, and the label on it that says that no prefix is cached
    adapters: Series | None = None
    rank: str | None = None  # the label that tells apart the data parallel engines behind one port
    mirrored: bool = False  # whether a rank's series repeat for each of its shards, with the same value


def _vllm() -> Names:
    cache = b"vllm:cache_config_info"
    return Names(
        EngineKind.VLLM,
        running=Series(b"vllm:num_requests_running"),
        waiting=(Series(b"vllm:num_requests_waiting"), Series(b"vllm:num_requests_swapped")),
        usage=(Series(b"vllm:kv_cache_usage_perc"), Series(b"vllm:gpu_cache_usage_perc")),
        # Blocks x block size is wrong for models with several kinds of layers; new versions state the sum.
        capacity=(
            (Series(cache, label="kv_cache_size_tokens"),),
            (Series(cache, label="num_gpu_blocks"), Series(cache, label="block_size")),
        ),
        prompt_tokens=Series(b"vllm:prompt_tokens_total"),
        generation_tokens=Series(b"vllm:generation_tokens_total"),
        cache_hits=(Series(b"vllm:prefix_cache_hits_total"), Series(b"vllm:gpu_prefix_cache_hits_total")),
        cache_queries=(Series(b"vllm:prefix_cache_queries_total"), Series(b"vllm:gpu_prefix_cache_queries_total")),
        cache_hit_rate=Series(b"vllm:gpu_prefix_cache_hit_rate"),
        uncached=(cache, b'enable_prefix_caching="False"'),
        adapters=Series(b"vllm:lora_requests_info"),
        rank="engine",
    )


def _sglang() -> Names:
    # With priority scheduling the same requests are counted again under each priority.
    total = (("priority", ""),)
    return Names(
        EngineKind.SGLANG,
        running=Series(b"sglang:num_running_reqs", total),
        waiting=(Series(b"sglang:num_queue_reqs", total),),
        usage=(Series(b"sglang:token_usage"),),
        capacity=((Series(b"sglang:max_total_num_tokens"),),),
        prompt_tokens=Series(b"sglang:prompt_tokens_total"),
        generation_tokens=Series(b"sglang:generation_tokens_total"),
        cache_hits=(Series(b"sglang:cached_tokens_total"),),
        cache_queries=(Series(b"sglang:prompt_tokens_total"),),
        cache_hit_rate=Series(b"sglang:cache_hit_rate"),
        rank="dp_rank",
        mirrored=True,  # tensor, pipeline and expert ranks may each publish
    )


def _bladellm() -> Names:
    return Names(
        EngineKind.BLADELLM,
        running=Series(b"decode_batch_size_mean"),
        waiting=(Series(b"wait_queue_size_mean"),),
        usage=(Series(b"block_usage_gpu_mean"),),
    )


def _tgi() -> Names:
    return Names(
        EngineKind.TGI,
        running=Series(b"tgi_batch_current_size"),
        waiting=(Series(b"tgi_queue_size"),),
        # TGI counts tokens only as the sums of its histograms.
        prompt_tokens=Series(b"tgi_request_input_length_sum"),
        generation_tokens=Series(b"tgi_request_generated_tokens_sum"),
    )


def _llamacpp() -> Names:
    return Names(
        EngineKind.LLAMACPP,
        running=Series(b"llamacpp:requests_processing"),
        waiting=(Series(b"llamacpp:requests_deferred"),),
        usage=(Series(b"llamacpp:kv_cache_usage_ratio"),),  # gone from builds since 2025, as is the next
        used=(Series(b"llamacpp:kv_cache_tokens"),),
        prompt_tokens=Series(b"llamacpp:prompt_tokens_total"),
        generation_tokens=Series(b"llamacpp:tokens_predicted_total"),
    )


def _trtllm_serve() -> Names:
    per_block = Series(b"trtllm_kv_cache_tokens_per_block")
    return Names(
        EngineKind.TENSORRT_LLM,
        running=Series(b"trtllm_num_requests_running"),
        waiting=(Series(b"trtllm_num_requests_waiting"),),
        usage=(Series(b"trtllm_kv_cache_utilization"),),
        capacity=((Series(b"trtllm_kv_cache_max_blocks"), per_block),),
        used=(Series(b"trtllm_kv_cache_used_blocks"), per_block),
        prompt_tokens=Series(b"trtllm_prompt_tokens_total"),
        generation_tokens=Series(b"trtllm_generation_tokens_total"),
        cache_hit_rate=Series(b"trtllm_kv_cache_hit_rate"),
    )


def _triton() -> Names:
    def requests(which: str) -> Series:
        return Series(b"nv_trt_llm_request_metrics", (("request_type", which),))

    def blocks(which: str) -> Series:
        return Series(b"nv_trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", which),))

    return Names(
        EngineKind.TENSORRT_LLM,
        running=requests("scheduled"),
        waiting=(requests("waiting"),),
        usage=(blocks("fraction"),),
        capacity=((blocks("max"), blocks("tokens_per")),),
        used=(blocks("used"), blocks("tokens_per")),  # older backends publish no fraction
        rank="model",
    )


ENGINES: Final = (_vllm(), _sglang(), _trtllm_serve(), _triton(), _tgi(), _llamacpp(), _bladellm())

# Values of the engine label, beside the kinds' own names.
_ALIASES: Final = {
    "llama.cpp": EngineKind.LLAMACPP,
    "trtllm-serve": EngineKind.TENSORRT_LLM,
    "triton-tensorrt-llm": EngineKind.TENSORRT_LLM,
}
_KINDS: Final = {names.kind.value: names.kind for names in ENGINES} | _ALIASES

_MOST: Final = 2.0**53  # more tokens than any engine ever counts
_LEAST_SHARE: Final = 1e-6  # llama.cpp prints six digits: below, dividing by it gives noise

_STARTED: Final = Series(b"process_start_time_seconds")

# After a metric's name: labels, value, timestamp. NaN and infinities do not match: they say nothing about load.
_REST: Final = re.compile(
    rb'(?:[ \t]*\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"}\n]*+)*+)\}[ \t]*|[ \t]+)'
    rb"([-+]?[0-9.][-+0-9.eE]*)(?:[ \t]+-?[0-9]+)?[ \t]*\r?(?=\n|\Z)"
)
_LABEL: Final = re.compile(rb'([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_ESCAPE: Final = re.compile(r'\\([\\n"])')


def labelled_kind(labels: Mapping[str, str]) -> EngineKind | None:
    """The engine that an endpoint's labels name. None: they name none that we know, so let the page tell."""
    named = next((labels[name] for name in wire.ENGINE_LABELS if name in labels), "")
    return _KINDS.get(named.lower())


def read(page: bytes, kind: EngineKind | None = None) -> EngineLoad:
    """The load that `page` states, in the terms of engine `kind` (None: of whichever engine it shows).

    A page without series of a known engine gives an UNKNOWN load; that much is still a sign of life.
    """
    text = page if page.startswith((b"#", b"\n")) else b"\n" + page
    started_at = next(iter(_values(text, _STARTED)), None)
    for names in ENGINES:
        if kind in (None, names.kind) and any(_values(text, one) for one in (names.running, *names.waiting)):
            return _load(text, names, started_at)
    return EngineLoad(started_at=started_at)


def _load(text: bytes, names: Names, started_at: float | None) -> EngineLoad:
    usage, capacity = _cache(text, names)
    max_adapters, running_adapters, waiting_adapters = _adapters(text, names.adapters)
    return EngineLoad(
        engine=names.kind,
        running=sum(_by_rank(text, names.running, names).values()),
        waiting=sum(sum(_by_rank(text, one, names).values()) for one in names.waiting),
        kv_usage=usage,
        kv_capacity_tokens=capacity,
        prompt_tokens_total=_total(text, names.prompt_tokens),
        generation_tokens_total=_total(text, names.generation_tokens),
        **_reuse(text, names),
        max_adapters=max_adapters,
        running_adapters=running_adapters,
        waiting_adapters=waiting_adapters,
        started_at=started_at,
    )


def _cache(text: bytes, names: Names) -> tuple[float | None, int | None]:
    """Usage and capacity over all ranks; either follows from the tokens in use where it is not published."""
    usage = next(filter(None, (_by_rank(text, one, names) for one in names.usage)), {})
    capacity = next(filter(None, (_product(text, factors, names) for factors in names.capacity)), {})
    used = _product(text, names.used, names) if names.used and not (usage and capacity) else {}
    if not capacity:
        capacity = {rank: used[rank] / share for rank, share in usage.items() if share > _LEAST_SHARE and rank in used}
    if not usage:
        usage = {rank: used[rank] / tokens for rank, tokens in capacity.items() if tokens > 0 and rank in used}
    return _mean(usage, capacity), round(sum(capacity.values())) or None


class _Reuse(TypedDict):
    caches_prefixes: bool
    cache_hits_total: float | None
    cache_queries_total: float | None
    cache_hit_rate: float | None


def _reuse(text: bytes, names: Names) -> _Reuse:
    """What the prefix cache is good for. A rate that has never been (SGLang and vLLM write -1) is none."""
    hits = next((total for one in names.cache_hits if (total := _total(text, one)) is not None), None)
    queries = next((total for one in names.cache_queries if (total := _total(text, one)) is not None), None)
    rates = _rates(text, names.cache_hit_rate) if hits is None else []
    return _Reuse(
        caches_prefixes=names.uncached is None or not _has(text, *names.uncached),
        cache_hits_total=hits,
        cache_queries_total=queries if hits is not None else None,
        cache_hit_rate=sum(rates) / len(rates) if rates else None,
    )


def _has(text: bytes, name: bytes, label: bytes) -> bool:
    """Whether the last sample of that metric has the label. Constants stand near a page's end, and their labels are
    many."""
    at = text.rfind(b"\n" + name)
    return at >= 0 and label in text[at + 1 :].partition(b"\n")[0]


def _rates(text: bytes, series: Series | None) -> list[float]:
    found = samples(text, series.name) if series is not None else []
    return [sample.value for sample in found if 0.0 <= sample.value <= 1.0]


def _mean(usage: Mapping[str, float], capacity: Mapping[str, float]) -> float | None:
    if not usage:
        return None
    known = all(capacity.get(rank, 0.0) > 0.0 for rank in usage)
    weights = {rank: capacity[rank] if known else 1.0 for rank in usage}
    return sum(min(share, 1.0) * weights[rank] for rank, share in usage.items()) / sum(weights.values())


def _product(text: bytes, factors: Product, names: Names) -> dict[str, float]:
    first, *others = (_by_rank(text, factor, names) for factor in factors)
    return {
        rank: math.prod((value, *(other[rank] for other in others)))
        for rank, value in first.items()
        if all(rank in other for other in others)
    }


def _adapters(text: bytes, series: Series | None) -> tuple[int | None, frozenset[str], frozenset[str]]:
    """vLLM leaves a series behind for every past combination: its value is a time, and the latest is current."""
    found = samples(text, series.name) if series else []
    if not found:
        return None, frozenset(), frozenset()
    labels = max(found, key=lambda sample: sample.value).labels
    slots = labels.get("max_lora", "")
    running, waiting = (_split(labels.get(f"{state}_lora_adapters", "")) for state in ("running", "waiting"))
    return int(slots) if slots.isdecimal() else None, running, waiting


def _split(names: str) -> frozenset[str]:
    return frozenset(name.strip() for name in names.split(",") if name.strip())


def _total(text: bytes, series: Series | None) -> float | None:
    values = _values(text, series) if series else []
    return sum(values) if values else None


def _by_rank(text: bytes, series: Series, names: Names) -> dict[str, float]:
    ranks: dict[str, float] = {}
    for labels, value in _numbers(text, series):
        rank = labels.get(names.rank, "") if names.rank else ""
        ranks[rank] = max(ranks.get(rank, 0.0), value) if names.mirrored else ranks.get(rank, 0.0) + value
    return ranks


def _values(text: bytes, series: Series) -> list[float]:
    return [value for _, value in _numbers(text, series)]


def _numbers(text: bytes, series: Series) -> Iterable[Sample]:
    for sample in samples(text, series.name):
        if series.where and any(sample.labels.get(name, "") != value for name, value in series.where):
            continue
        number = sample.value if series.label is None else _number(sample.labels.get(series.label, ""))
        if number is not None:
            yield Sample(sample.labels, max(number, 0.0))


def samples(text: bytes, name: bytes) -> list[Sample]:
    """The samples of metric `name`, in order. The exposition format has them in one group, each line led by LF."""
    line = b"\n" + name
    found: list[Sample] = []
    at = text.find(line)
    while at >= 0:
        rest = _REST.match(text, at + len(line))
        if rest is None:  # a longer name, or a line that says nothing
            at = text.find(line, at + 1)
            continue
        value = _number(rest[2])
        if value is not None:
            found.append(Sample(_labels(rest[1] or b""), value))
        at = rest.end() if text.startswith(line, rest.end()) else -1
    return found


def _number(text: str | bytes) -> float | None:
    """The number, if it is one that a load can have: sums and products of such numbers stay finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= _MOST else None


@lru_cache(maxsize=4096)  # an engine's labels are the same at every scrape, and long
def _labels(text: bytes) -> Mapping[str, str]:
    return {name.decode(): _unescape(value.decode(errors="replace")) for name, value in _LABEL.findall(text)}


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], value) if "\\" in value else value
