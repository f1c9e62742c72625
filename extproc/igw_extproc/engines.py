"""What each engine calls its load: the text of a /metrics page becomes an `EngineLoad`. Pure.

One row of `ENGINES` per exporter holds the names; one function reads any row. It must not do I/O, keep state or raise
on what an engine sent: lines that cannot be read are skipped (`exposition`). The scraper calls it, hundreds of times a
second.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

from igw_api import wire
from igw_extproc import gpus
from igw_extproc.domain import EngineKind, EngineLoad
from igw_extproc.exposition import Series, numbers, samples, values

Product = tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one exporter. Its engine is recognised by the first of `running` or of `waiting`."""

    kind: EngineKind
    running: tuple[Series, ...]  # added up, as are the next
    waiting: tuple[Series, ...]
    arriving: tuple[Series, ...] = ()  # counted as waiting, but have their room, and their KV is on its way to it
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
    gpu: tuple[gpus.Share, ...] = ()  # the first that is present
    rank: str | None = None  # the label that tells apart the data parallel engines behind one port
    mirrored: bool = False  # whether a rank's series repeat for each of its shards, with the same value


def _vllm() -> Names:
    cache = b"vllm:cache_config_info"
    return Names(
        EngineKind.VLLM,
        running=(Series(b"vllm:num_requests_running"),),
        waiting=(Series(b"vllm:num_requests_waiting"), Series(b"vllm:num_requests_swapped")),
        arriving=tuple(
            Series(b"vllm:num_requests_kv_fetch_by_stage", (("stage", stage),))
            for stage in ("in_progress", "completed_waiting")
        ),
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
        # Engines with one role have further queues: of requests whose KV is on its way, and of those for which there is
        # no room yet, or whose other half has none.
        running=(
            Series(b"sglang:num_running_reqs", total),
            Series(b"sglang:num_prefill_inflight_queue_reqs", total),
            Series(b"sglang:num_decode_transfer_queue_reqs", total),
        ),
        waiting=(
            Series(b"sglang:num_queue_reqs", total),
            Series(b"sglang:num_prefill_bootstrap_queue_reqs", total),
            Series(b"sglang:num_decode_prealloc_queue_reqs", total),
        ),
        usage=(Series(b"sglang:token_usage"),),
        capacity=((Series(b"sglang:max_total_num_tokens"),),),
        prompt_tokens=Series(b"sglang:prompt_tokens_total"),
        generation_tokens=Series(b"sglang:generation_tokens_total"),
        cache_hits=(Series(b"sglang:cached_tokens_total"),),  # one series for each place of the cache
        cache_queries=(Series(b"sglang:prompt_tokens_total"),),
        cache_hit_rate=Series(b"sglang:cache_hit_rate"),
        gpu=(gpus.Share(b"sglang:fwd_occupancy", 0.01),),
        rank="dp_rank",
        mirrored=True,  # tensor, pipeline and expert ranks may each publish
    )


def _bladellm() -> Names:
    return Names(
        EngineKind.BLADELLM,
        running=(Series(b"decode_batch_size_mean"),),
        waiting=(Series(b"wait_queue_size_mean"),),
        usage=(Series(b"block_usage_gpu_mean"),),
    )


def _tgi() -> Names:
    return Names(
        EngineKind.TGI,
        running=(Series(b"tgi_batch_current_size"),),
        waiting=(Series(b"tgi_queue_size"),),
        # TGI counts tokens only as the sums of its histograms.
        prompt_tokens=Series(b"tgi_request_input_length_sum"),
        generation_tokens=Series(b"tgi_request_generated_tokens_sum"),
    )


def _llamacpp() -> Names:
    return Names(
        EngineKind.LLAMACPP,
        running=(Series(b"llamacpp:requests_processing"),),
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
        running=(Series(b"trtllm_num_requests_running"),),
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
        running=(requests("scheduled"),),
        waiting=(requests("waiting"),),
        usage=(blocks("fraction"),),
        capacity=((blocks("max"), blocks("tokens_per")),),
        used=(blocks("used"), blocks("tokens_per")),  # older backends publish no fraction
        gpu=(gpus.Share(b"nv_gpu_utilization"),),
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

# Of adapters in use at once, since the engine's start.
_MOST_COMBINATIONS: Final = 65_536
# Of a number of adapters.
_MOST_DIGITS: Final = 9
_LEAST_SHARE: Final = 1e-6  # llama.cpp prints six digits: below, dividing by it gives noise

_STARTED: Final = Series(b"process_start_time_seconds")


def labelled_kind(labels: Mapping[str, str]) -> EngineKind | None:
    """The engine that an endpoint's labels name. None: they name none that we know, so let the page tell."""
    named = next((labels[name] for name in wire.ENGINE_LABELS if name in labels), "")
    return _KINDS.get(named.lower())


def read(page: bytes, kind: EngineKind | None = None) -> EngineLoad:
    """The load that `page` states, in the terms of engine `kind` (None: of whichever engine it shows).

    A page without series of a known engine gives an UNKNOWN load; that much is still a sign of life.
    """
    text = page if page.startswith((b"#", b"\n")) else b"\n" + page
    started_at = next(iter(values(text, _STARTED)), None)
    for names in ENGINES:
        if kind in (None, names.kind) and any(values(text, one) for one in (names.running[0], names.waiting[0])):
            return _load(text, names, started_at)
    return EngineLoad(started_at=started_at)


def _load(text: bytes, names: Names, started_at: float | None) -> EngineLoad:
    usage, capacity = _cache(text, names)
    max_adapters, running_adapters, waiting_adapters = _adapters(text, names.adapters)
    arriving = _sum(text, names.arriving, names)
    return EngineLoad(
        engine=names.kind,
        running=_sum(text, names.running, names) + arriving,
        waiting=max(_sum(text, names.waiting, names) - arriving, 0.0),
        kv_usage=usage,
        kv_capacity_tokens=capacity,
        prompt_tokens_total=_total(text, names.prompt_tokens),
        generation_tokens_total=_total(text, names.generation_tokens),
        **_reuse(text, names),
        max_adapters=max_adapters,
        running_adapters=running_adapters,
        waiting_adapters=waiting_adapters,
        gpu=gpus.share(text, names.gpu),
        started_at=started_at,
    )


def _sum(text: bytes, series: Sequence[Series], names: Names) -> float:
    return sum(sum(_by_rank(text, one, names).values()) for one in series)


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
    found = samples(text, series.name, _MOST_COMBINATIONS) if series else []
    if not found:
        return None, frozenset(), frozenset()
    labels = max(found, key=lambda sample: sample.value).labels
    slots = labels.get("max_lora", "")
    running, waiting = (_split(labels.get(f"{state}_lora_adapters", "")) for state in ("running", "waiting"))
    return int(slots) if slots.isdecimal() and len(slots) <= _MOST_DIGITS else None, running, waiting


def _split(names: str) -> frozenset[str]:
    return frozenset(name.strip() for name in names.split(",") if name.strip())


def _total(text: bytes, series: Series | None) -> float | None:
    found = values(text, series) if series else []
    return sum(found) if found else None


def _by_rank(text: bytes, series: Series, names: Names) -> dict[str, float]:
    ranks: dict[str, float] = {}
    for labels, value in numbers(text, series):
        rank = labels.get(names.rank, "") if names.rank else ""
        ranks[rank] = max(ranks.get(rank, 0.0), value) if names.mirrored else ranks.get(rank, 0.0) + value
    return ranks
