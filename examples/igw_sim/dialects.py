"""What each engine calls its metrics: one table per dialect, from the engines' own sources and documentation.

Independent of the gateway's tables on purpose. Names only: reading is in `model`, writing in `exposition`.
"""

from collections.abc import Callable

from igw_sim.exposition import Dialect, Family, Labels, Reading, Value
from igw_sim.histogram import HistogramData

_Read = Callable[[Reading], Value]


def _gauge(name: str, help_text: str, read: _Read) -> Family:
    return Family(name, "gauge", help_text, read)


def _counter(name: str, help_text: str, read: _Read) -> Family:
    return Family(name, "counter", help_text, read)


def _histogram(name: str, help_text: str, key: str) -> Family:
    def read(reading: Reading) -> HistogramData:
        return reading.statistics.histograms[key]

    return Family(name, "histogram", help_text, read)


def _running(reading: Reading) -> float:
    return reading.statistics.running


def _waiting(reading: Reading) -> float:
    return reading.statistics.waiting


def _queued(reading: Reading) -> float:
    """Without those whose KV is on its way."""
    return reading.statistics.waiting - reading.statistics.loading


def _fetched_by_stage(reading: Reading) -> Value:
    counts = {"waiting_to_start": 0, "in_progress": reading.statistics.loading, "completed_waiting": 0}
    return [({"stage": stage}, count) for stage, count in counts.items()]


def _kv_usage(reading: Reading) -> float:
    return reading.statistics.kv_usage


def _kv_tokens(reading: Reading) -> float:
    return reading.statistics.kv_used_blocks * reading.limits.block_tokens


def _hit_rate(reading: Reading) -> float:
    return reading.statistics.prefix_hit_tokens / max(1, reading.statistics.prefix_query_tokens)


def _prompt_tokens(reading: Reading) -> float:
    return reading.statistics.prompt_tokens


def _generation_tokens(reading: Reading) -> float:
    return reading.statistics.generation_tokens


def _succeeded(reading: Reading) -> float:
    return reading.statistics.succeeded


def _finished(reading: Reading) -> Value:
    counts = {"stop": 0, "length": 0, **reading.statistics.finished, "abort": reading.statistics.cancelled}
    return [({"finished_reason": reason}, count) for reason, count in counts.items()]


def _waiting_by_reason(reading: Reading) -> Value:
    deferred = reading.statistics.waiting_for_adapter + reading.statistics.loading
    return [({"reason": "capacity"}, reading.statistics.waiting - deferred), ({"reason": "deferred"}, deferred)]


def _lora_info(reading: Reading) -> Value:
    if not reading.adapters:
        return ()
    return [
        (
            {
                "max_lora": str(reading.limits.max_adapters),
                "running_lora_adapters": running,
                "waiting_lora_adapters": waiting,
            },
            seen,
        )
        for (running, waiting), seen in reading.adapter_sets.items()
    ]


def _vllm_cache_config(reading: Reading) -> Value:
    labels = {
        "block_size": str(reading.limits.block_tokens),
        "cache_dtype": "auto",
        "enable_prefix_caching": str(reading.limits.prefix_cache),
        "gpu_memory_utilization": "0.9",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(reading.limits.kv_blocks),
        "sliding_window": "None",
        "swap_space": "4",
    }
    return [(labels, 1.0)]


def _sglang_cache_config(reading: Reading) -> Value:
    labels = {"page_size": str(reading.limits.block_tokens), "num_pages": str(reading.limits.kv_blocks)}
    return [(labels, 1.0)]


# What Python's Prometheus client adds by itself.
_PYTHON = (
    Family(
        "python_info",
        "gauge",
        "Python platform information",
        lambda _: [
            ({"implementation": "CPython", "major": "3", "minor": "12", "patchlevel": "11", "version": "3.12.11"}, 1.0)
        ],
        process=True,
    ),
    Family(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        lambda reading: reading.started_at,
        process=True,
    ),
    Family("process_open_fds", "gauge", "Number of open file descriptors.", lambda _: 64.0, process=True),
)

# vllm/v1/metrics/loggers.py
_VLLM = (
    *_PYTHON,
    _gauge("vllm:num_requests_running", "Number of requests in model execution batches.", _running),
    _gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", _waiting),
    _gauge("vllm:num_requests_waiting_by_reason", "Number of waiting requests by reason.", _waiting_by_reason),
    _gauge(
        "vllm:num_requests_kv_fetch_by_stage", "Number of waiting requests by async KV load stage.", _fetched_by_stage
    ),
    _gauge("vllm:engine_sleep_state", "Engine sleep state.", lambda _: [({"sleep_state": "awake"}, 1.0)]),
    _gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", _kv_usage),
    _counter(
        "vllm:prefix_cache_queries_total",
        "Prefix cache queries, in terms of number of queried tokens.",
        lambda reading: reading.statistics.prefix_query_tokens,
    ),
    _counter(
        "vllm:prefix_cache_hits_total",
        "Prefix cache hits, in terms of number of cached tokens.",
        lambda reading: reading.statistics.prefix_hit_tokens,
    ),
    _counter(
        "vllm:num_preemptions_total",
        "Cumulative number of preemption from the engine.",
        lambda reading: reading.statistics.preemptions,
    ),
    _counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", _prompt_tokens),
    _counter("vllm:generation_tokens_total", "Number of generation tokens processed.", _generation_tokens),
    _counter("vllm:request_success_total", "Count of successfully processed requests.", _finished),
    _histogram("vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", "step_tokens"),
    _histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", "prompt_tokens"),
    _histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", "generation_tokens"),
    _histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft_s"),
    _histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "itl_s"),
    _histogram(
        "vllm:request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        "tpot_s",
    ),
    _histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", "e2e_s"),
    _histogram("vllm:request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", "queue_s"),
    _histogram(
        "vllm:request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", "inference_s"
    ),
    _histogram(
        "vllm:request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", "prefill_s"
    ),
    _histogram("vllm:request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", "decode_s"),
    _gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", _vllm_cache_config),
    Family("vllm:lora_requests_info", "gauge", "Running stats on lora requests.", _lora_info, process=True),
)

# vllm/engine/metrics.py, before v1.
_VLLM_OLD = (
    *_PYTHON,
    _gauge("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", _vllm_cache_config),
    _gauge("vllm:num_requests_running", "Number of requests currently running on GPU.", _running),
    _gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", _waiting),
    Family("vllm:lora_requests_info", "gauge", "Running stats on lora requests.", _lora_info, process=True),
    _gauge("vllm:num_requests_swapped", "Number of requests swapped to CPU.", lambda _: 0.0),
    _gauge("vllm:gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", _kv_usage),
    _gauge("vllm:cpu_cache_usage_perc", "CPU KV-cache usage. 1 means 100 percent usage.", lambda _: 0.0),
    _gauge("vllm:gpu_prefix_cache_hit_rate", "GPU prefix cache block hit rate.", _hit_rate),
    _counter(
        "vllm:num_preemptions_total",
        "Cumulative number of preemption from the engine.",
        lambda reading: reading.statistics.preemptions,
    ),
    _counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", _prompt_tokens),
    _counter("vllm:generation_tokens_total", "Number of generation tokens processed.", _generation_tokens),
    _histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft_s"),
    _histogram("vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds.", "itl_s"),
    _histogram("vllm:e2e_request_latency_seconds", "Histogram of end to end request latency in seconds.", "e2e_s"),
    _histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", "prompt_tokens"),
    _histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", "generation_tokens"),
    _counter("vllm:request_success_total", "Count of successfully processed requests.", _finished),
)

# python/sglang/srt/metrics/collector.py
_SGLANG = (
    *_PYTHON,
    _gauge("sglang:num_running_reqs", "The number of running requests.", _running),
    _gauge("sglang:num_used_tokens", "The number of used tokens.", _kv_tokens),
    _gauge("sglang:token_usage", "The token usage.", _kv_usage),
    _gauge(
        "sglang:gen_throughput",
        "The generation throughput (token/s).",
        lambda reading: reading.generation_tokens_per_s,
    ),
    _gauge("sglang:num_queue_reqs", "The number of requests in the waiting queue.", _queued),
    _gauge(
        "sglang:num_decode_transfer_queue_reqs",
        "The number of requests in the decode transfer queue.",
        lambda reading: reading.statistics.loading,
    ),
    _gauge("sglang:num_grammar_queue_reqs", "The number of requests in the grammar waiting queue.", lambda _: 0.0),
    _gauge("sglang:cache_hit_rate", "The prefix cache hit rate.", _hit_rate),
    _gauge(
        "sglang:max_total_num_tokens",
        "Maximum total number of tokens in the KV cache pool.",
        lambda reading: reading.limits.kv_tokens,
    ),
    _counter(
        "sglang:num_retracted_requests_total",
        "Total number of retracted requests.",
        lambda reading: reading.statistics.preemptions,
    ),
    _gauge("sglang:cache_config_info", "Information about the cache configuration.", _sglang_cache_config),
    _counter("sglang:prompt_tokens_total", "Number of prefill tokens processed.", _prompt_tokens),
    _counter("sglang:generation_tokens_total", "Number of generation tokens processed.", _generation_tokens),
    _counter("sglang:num_requests_total", "Number of requests processed.", _succeeded),
    _counter(
        "sglang:num_aborted_requests_total",
        "Number of requests aborted.",
        lambda reading: reading.statistics.cancelled,
    ),
    _histogram("sglang:time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft_s"),
    _histogram("sglang:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", "itl_s"),
    _histogram("sglang:e2e_request_latency_seconds", "Histogram of End-to-end request latency in seconds", "e2e_s"),
    _histogram("sglang:queue_time_seconds", "Histogram of queueing time in seconds.", "queue_s"),
)

# BladeLLM's five, without a prefix. The real ones are means over a reporting interval; these are of this moment.
_BLADELLM = (
    *_PYTHON,
    _gauge("decode_batch_size_mean", "Mean decode batch size", lambda reading: reading.statistics.decoding),
    _gauge("wait_queue_size_mean", "Mean size of the waiting queue", _waiting),
    _gauge("block_usage_gpu_mean", "Mean usage of GPU blocks", _kv_usage),
    _gauge(
        "tps_total",
        "Input and output tokens per second",
        lambda reading: reading.prompt_tokens_per_s + reading.generation_tokens_per_s,
    ),
    _gauge("tps_out", "Output tokens per second", lambda reading: reading.generation_tokens_per_s),
)

# huggingface.co/docs/text-generation-inference/reference/metrics. Its exporter writes no HELP, and no `_total`.
_TGI = (
    _gauge("tgi_queue_size", "", _waiting),
    _gauge("tgi_batch_current_size", "", _running),
    _gauge("tgi_batch_current_max_tokens", "", _kv_tokens),
    _counter("tgi_request_count", "", _succeeded),
    _counter("tgi_request_success", "", _succeeded),
    _histogram("tgi_request_duration", "", "e2e_s"),
    _histogram("tgi_request_queue_duration", "", "queue_s"),
    _histogram("tgi_request_inference_duration", "", "inference_s"),
    _histogram("tgi_request_mean_time_per_token_duration", "", "tpot_s"),
    _histogram("tgi_request_input_length", "", "prompt_tokens"),
    _histogram("tgi_request_generated_tokens", "", "generation_tokens"),
)

# tools/server/README.md of llama.cpp; the KV gauges are those of builds before mid-2025.
_LLAMACPP = (
    _counter("llamacpp:prompt_tokens_total", "Number of prompt tokens processed.", _prompt_tokens),
    _counter("llamacpp:prompt_seconds_total", "Prompt process time", lambda reading: reading.statistics.prefill_s),
    _counter("llamacpp:tokens_predicted_total", "Number of generation tokens processed.", _generation_tokens),
    _counter(
        "llamacpp:tokens_predicted_seconds_total", "Predict process time", lambda reading: reading.statistics.decode_s
    ),
    _counter(
        "llamacpp:n_decode_total", "Total number of llama_decode() calls", lambda reading: reading.statistics.steps
    ),
    _gauge(
        "llamacpp:n_busy_slots_per_decode",
        "Average number of busy slots per llama_decode() call",
        lambda reading: reading.statistics.generation_tokens / max(1, reading.statistics.steps),
    ),
    _gauge(
        "llamacpp:prompt_tokens_seconds",
        "Average prompt throughput in tokens/s.",
        lambda reading: reading.prompt_tokens_per_s,
    ),
    _gauge(
        "llamacpp:predicted_tokens_seconds",
        "Average generation throughput in tokens/s.",
        lambda reading: reading.generation_tokens_per_s,
    ),
    _gauge("llamacpp:kv_cache_usage_ratio", "KV-cache usage. 1 means 100 percent usage.", _kv_usage),
    _gauge("llamacpp:kv_cache_tokens", "KV-cache tokens.", _kv_tokens),
    _gauge("llamacpp:requests_processing", "Number of requests processing.", _running),
    _gauge("llamacpp:requests_deferred", "Number of requests deferred.", _waiting),
)

# tensorrt_llm/metrics/collector.py, served by trtllm-serve.
_TENSORRT_LLM = (
    *_PYTHON,
    _counter("trtllm_request_success_total", "Count of successfully processed requests.", _finished),
    _histogram("trtllm_e2e_request_latency_seconds", "Histogram of end to end request latency in seconds.", "e2e_s"),
    _histogram("trtllm_time_to_first_token_seconds", "Histogram of time to first token in seconds.", "ttft_s"),
    _histogram("trtllm_time_per_output_token_seconds", "Histogram of time per output token in seconds.", "tpot_s"),
    _histogram("trtllm_request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", "queue_s"),
    _counter("trtllm_prompt_tokens_total", "Cumulative number of prompt (input) tokens processed.", _prompt_tokens),
    _counter(
        "trtllm_generation_tokens_total",
        "Cumulative number of generation (output) tokens produced.",
        _generation_tokens,
    ),
    _gauge("trtllm_kv_cache_hit_rate", "KV cache hit rate", _hit_rate),
    _gauge("trtllm_kv_cache_utilization", "KV cache utilization", _kv_usage),
    _gauge("trtllm_num_requests_running", "Number of active requests", _running),
    _gauge("trtllm_num_requests_waiting", "Number of queued requests", _waiting),
    _counter("trtllm_num_requests_completed_total", "Total number of completed requests across iterations", _succeeded),
    _gauge("trtllm_kv_cache_max_blocks", "Maximum number of KV cache blocks", lambda reading: reading.limits.kv_blocks),
    _gauge(
        "trtllm_kv_cache_used_blocks",
        "Number of used KV cache blocks",
        lambda reading: reading.statistics.kv_used_blocks,
    ),
    _gauge(
        "trtllm_kv_cache_tokens_per_block",
        "Number of tokens per KV cache block",
        lambda reading: reading.limits.block_tokens,
    ),
)


def _engine_label(model: str, rank: int) -> Labels:
    return {"engine": str(rank), "model_name": model}


def _model_label(model: str, rank: int) -> Labels:
    return {"model_name": model}


def _sglang_labels(model: str, rank: int) -> Labels:
    return {"engine_type": "unified", "model_name": model, "pp_rank": "0", "tp_rank": "0"}


def _trtllm_labels(model: str, rank: int) -> Labels:
    return {"model_name": model, "engine_type": "trtllm"}


def _no_labels(model: str, rank: int) -> Labels:
    return {}


DIALECTS = {
    "vllm": Dialect(_VLLM, _engine_label, created=True),
    "vllm-old": Dialect(_VLLM_OLD, _model_label, created=True),
    "sglang": Dialect(_SGLANG, _sglang_labels),
    "bladellm": Dialect(_BLADELLM, _no_labels),
    "tgi": Dialect(_TGI, _no_labels, helps=False),
    "llamacpp": Dialect(_LLAMACPP, _no_labels),
    "tensorrt-llm": Dialect(_TENSORRT_LLM, _trtllm_labels, path="/prometheus/metrics"),
}
