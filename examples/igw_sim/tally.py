"""What one engine counts about itself: totals and histograms, without the present state."""

from collections import Counter
from collections.abc import Mapping

from igw_sim.histogram import Histogram, HistogramData, one_two_five
from igw_sim.model import Finished

# Bucket bounds of vLLM (vllm/v1/metrics/loggers.py).
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
         80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_LATENCY = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
            960.0, 1920.0, 7680.0)  # fmt: skip
_BATCH = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
_BOUNDS: Mapping[str, tuple[float, ...]] = {
    "ttft_s": _TTFT,
    "itl_s": _TPOT,
    "tpot_s": _TPOT,
    "e2e_s": _LATENCY,
    "queue_s": _LATENCY,
    "prefill_s": _LATENCY,
    "decode_s": _LATENCY,
    "inference_s": _LATENCY,
    "prompt_tokens": one_two_five(131072),
    "generation_tokens": one_two_five(131072),
    "step_tokens": _BATCH,
}


class Tally:
    """Public counters, fed by the engine; times are in seconds, the rest are tokens or requests."""

    def __init__(self) -> None:
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.preemptions = 0
        self.cancelled = 0
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self.finished: Counter[str] = Counter()
        self._histograms = {name: Histogram(bounds) for name, bounds in _BOUNDS.items()}

    def observe(self, name: str, value: float, times: int = 1) -> None:
        """Feed one histogram."""
        self._histograms[name].observe(value, times)

    def admit(self, prompt_tokens: int, cached_tokens: int) -> None:
        """A request was admitted for the first time."""
        self.prefix_query_tokens += prompt_tokens
        self.prefix_hit_tokens += cached_tokens
        self.prompt_tokens += prompt_tokens

    def spend(self, duration: float, prefill_s: float) -> None:
        """A step took `duration`, of which `prefill_s` before jitter was for prefill."""
        prefill = min(duration, prefill_s)
        self.prefill_s += prefill
        self.decode_s += duration - prefill

    def finish(self, finished: Finished, reason: str) -> None:
        """A request got its last token."""
        self.finished[reason] += 1
        decode_s = finished.last_token_at - finished.first_token_at
        prefill_s = finished.ttft_s - finished.queued_s
        self.observe("e2e_s", finished.last_token_at - finished.arrived_at)
        self.observe("queue_s", finished.queued_s)
        self.observe("prefill_s", prefill_s)
        self.observe("decode_s", decode_s)
        self.observe("inference_s", prefill_s + decode_s)
        self.observe("prompt_tokens", finished.prompt_tokens)
        self.observe("generation_tokens", finished.output_tokens)
        if finished.output_tokens > 1:
            self.observe("tpot_s", decode_s / (finished.output_tokens - 1))

    def histograms(self) -> dict[str, HistogramData]:
        """A reading of every histogram."""
        return {name: histogram.data() for name, histogram in self._histograms.items()}
