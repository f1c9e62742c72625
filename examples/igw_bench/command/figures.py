"""What one run comes to. Pure: samples in, numbers out. Called by `document`; docs/bench.md says what each means."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from igw_bench.command.samples import ANSWERED, FAILED, REFUSED, Run, Sample
from igw_bench.numbers import mean, percentile

# Points of a plot over time.
BUCKETS = 60
_POINTS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_LATENCIES: dict[str, Callable[[Sample], float | None]] = {
    "ttft": lambda one: one.ttft,
    "tpot": lambda one: one.tpot,
    "e2e": lambda one: one.whole,
}


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to be good: seconds to the first token, and for each later one."""

    ttft: float = 2.0
    tpot: float = 0.1

    def kept(self, sample: Sample) -> bool:
        """An answer of a single token has no time per token to miss."""
        if sample.outcome != ANSWERED or sample.ttft is None:
            return False
        return sample.ttft <= self.ttft and (sample.tpot is None or sample.tpot <= self.tpot)


def of_run(run: Run, slo: Slo) -> dict[str, Any]:
    """All figures of a run, as the JSON report has them."""
    counted = [one for one in run.samples if one.due_at >= run.counted_from]
    return {
        "figures": headline(run, slo),
        "refusals": dict(Counter(str(one.status) for one in run.samples if one.outcome == REFUSED)),
        "errors": dict(Counter(one.error for one in run.samples if one.outcome == FAILED)),
        "endpoints": [asdict(one) for one in by_endpoint(run)],
        "ttft_distribution": distribution([one.ttft for one in _answered(counted) if one.ttft is not None]),
        "over_time": over_time(run),
    }


def headline(run: Run, slo: Slo) -> dict[str, float | None]:
    """Numbers by name. Times in seconds; None where nothing was measured."""
    counted = [one for one in run.samples if one.due_at >= run.counted_from]
    answered = _answered(counted)
    begin, end = span(run.samples)
    seconds = end - begin
    good = sum(slo.kept(one) for one in counted)
    counted_seconds = max(end - max(begin, run.counted_from), 0.0)
    found: dict[str, float | None] = {
        "requests": len(run.samples),
        "counted": len(counted),
        "answered": len(_answered(run.samples)),
        "refused": sum(one.outcome == REFUSED for one in run.samples),
        "failed": sum(one.outcome == FAILED for one in run.samples),
        "duration": seconds,
        "requests_per_s": _over(len(_answered(run.samples)), seconds),
        "tokens_per_s": _over(sum(one.output_tokens for one in _answered(run.samples)), seconds),
        "prompt_tokens_per_s": _over(sum(one.prompt_tokens for one in _answered(run.samples)), seconds),
        "goodput": _over(good, counted_seconds),
        "good_share": _over(good, len(counted)),
        "cached_share": cached_share(answered),
        "imbalance": imbalance(run),
        "late_p99": percentile([one.sent_at - one.due_at for one in run.samples], 0.99),
    }
    for name, read in _LATENCIES.items():
        values = [value for one in answered if (value := read(one)) is not None]
        found[f"{name}_mean"] = mean(values)
        ordered = sorted(values)
        found |= {f"{name}_{point}": percentile(ordered, share) for point, share in _POINTS.items()}
    return found


def span(samples: Sequence[Sample]) -> tuple[float, float]:
    """From the first due request to the last end."""
    if not samples:
        return 0.0, 0.0
    return min(one.due_at for one in samples), max(one.ended_at for one in samples)


def cached_share(samples: Iterable[Sample]) -> float | None:
    """Of the prompt tokens whose answers tell it. None if none does."""
    told = [(one.cached_tokens, one.prompt_tokens) for one in samples if one.cached_tokens is not None]
    return _over(sum(cached for cached, _ in told), sum(prompt for _, prompt in told))


def _answered(samples: Iterable[Sample]) -> list[Sample]:
    return [one for one in samples if one.outcome == ANSWERED]


def _over(amount: float, whole: float) -> float | None:
    return amount / whole if whole > 0 else None


# ------------------------------------------------------------------------------------------------ balance


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """What one endpoint had. `in_flight`: the mean number of requests over the run."""

    endpoint: str
    requests: int
    failed: int
    prompt_tokens: int
    output_tokens: int
    cached_share: float | None
    in_flight: float | None
    ttft_mean: float | None
    ttft_p99: float | None


def by_endpoint(run: Run) -> list[EndpointFigures]:
    """In the order in which they are known; those that only answers name come after. Unnamed answers are left out."""
    begin, end = span(run.samples)
    groups: dict[str, list[Sample]] = {name: [] for name in run.endpoints}
    for one in run.samples:
        if one.endpoint:
            groups.setdefault(one.endpoint, []).append(one)
    return [_endpoint(name, found, end - begin) for name, found in groups.items()]


def _endpoint(name: str, samples: Sequence[Sample], seconds: float) -> EndpointFigures:
    answered = _answered(samples)
    ttft = [one.ttft for one in answered if one.ttft is not None]
    return EndpointFigures(
        endpoint=name,
        requests=len(samples),
        failed=len(samples) - len(answered),
        prompt_tokens=sum(one.prompt_tokens for one in answered),
        output_tokens=sum(one.output_tokens for one in answered),
        cached_share=cached_share(answered),
        in_flight=_over(math.fsum(one.ended_at - one.sent_at for one in samples), seconds),
        ttft_mean=mean(ttft),
        ttft_p99=percentile(ttft, 0.99),
    )


def imbalance(run: Run) -> float | None:
    """Output tokens of the endpoint that made most, over the mean of all: 1 is even. None for fewer than two."""
    tokens = [one.output_tokens for one in by_endpoint(run)]
    return _over(max(tokens), sum(tokens) / len(tokens)) if len(tokens) > 1 else None


# ------------------------------------------------------------------------------------------------ for plots


def distribution(values: Sequence[float], points: int = 100) -> list[float]:
    """The values at 0, 1/points ... 1 of their order. Empty for none."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return [_short(ordered[round(last * at / points)]) for at in range(points + 1)] if ordered else []


def over_time(run: Run, buckets: int = BUCKETS) -> dict[str, Any]:
    """The run in equal pieces of time.

    Latencies belong to the piece in which the request was due, ends and tokens to the one in which the answer ended,
    `in_flight` is the mean over the piece.
    """
    begin, end = span(run.samples)
    width = (end - begin) / buckets
    if width <= 0:
        return {"bucket_s": 0.0, "from_s": 0.0}

    def bucket(at: float) -> int:
        return max(0, min(int((at - begin) / width), buckets - 1))

    due: defaultdict[int, list[Sample]] = defaultdict(list)
    ended: defaultdict[int, list[Sample]] = defaultdict(list)
    for one in run.samples:
        due[bucket(one.due_at)].append(one)
        ended[bucket(one.ended_at)].append(one)
    ttft = [[one.ttft for one in _answered(due[at]) if one.ttft is not None] for at in range(buckets)]
    tpot = [[one.tpot for one in _answered(due[at]) if one.tpot is not None] for at in range(buckets)]
    names = [one.endpoint for one in by_endpoint(run)]
    return {
        "bucket_s": width,
        "from_s": begin,
        "ttft_mean": [_maybe(mean(one)) for one in ttft],
        "ttft_p99": [_maybe(percentile(one, 0.99)) for one in ttft],
        "tpot_mean": [_maybe(mean(one)) for one in tpot],
        "requests_per_s": [_short(len(_answered(ended[at])) / width) for at in range(buckets)],
        "tokens_per_s": [
            _short(sum(one.output_tokens for one in _answered(ended[at])) / width) for at in range(buckets)
        ],
        "unanswered": [len(ended[at]) - len(_answered(ended[at])) for at in range(buckets)],
        "in_flight": in_flight(run.samples, begin, width, buckets),
        "in_flight_of": {
            name: in_flight([one for one in run.samples if one.endpoint == name], begin, width, buckets)
            for name in names
        },
    }


def in_flight(samples: Iterable[Sample], begin: float, width: float, buckets: int) -> list[float]:
    """The mean number of requests under way in each piece."""
    held = [0.0] * buckets
    for one in samples:
        first, last = (one.sent_at - begin) / width, (one.ended_at - begin) / width
        for at in range(max(0, int(first)), min(int(last), buckets - 1) + 1):
            held[at] += max(0.0, min(last, at + 1) - max(first, at))
    return [_short(value) for value in held]


def _maybe(value: float | None) -> float | None:
    return None if value is None else _short(value)


def _short(value: float) -> float:
    """Four digits: plots need no more, and the report stays small."""
    return float(f"{value:.4g}")
