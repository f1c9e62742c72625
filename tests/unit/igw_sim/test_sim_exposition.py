"""Every dialect's page is one that Prometheus reads, and says what the engine says."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from igw_sim.dialects import DIALECTS
from igw_sim.engine import Engine
from igw_sim.exposition import Page
from igw_sim.model import Limits, Request, Speed, Statistics

LIMITS = Limits(kv_blocks=100, block_tokens=16, max_sequences=4, max_adapters=2)


def busy_engine() -> Engine:
    """Four requests run, three wait, one has ended; two adapters run."""
    engine = Engine(LIMITS, Speed(1000, decode_step_s=0.01), Random(0))
    engine.submit(Request("done", 32, 1), 0.0)
    engine.step(0.0)
    for number, adapter in enumerate(["x", "y", None, None, None, None, None]):
        engine.submit(Request(f"r{number}", 32, 50, adapter=adapter), 0.0)
    engine.step(0.1)
    engine.step(0.2)
    return engine


def page(dialect: str, *ranks: Statistics, adapters: tuple[str, ...] = ()) -> str:
    subject = Page(DIALECTS[dialect], "my-model", adapters, LIMITS, started_at=1000.0)
    return subject.render(ranks or (busy_engine().statistics(),), now=5.0, unix_now=2000.0).decode()


def samples(text: str) -> dict[tuple[str, str], float]:
    """Every sample by name and labels, as the reference parser reads them."""
    return {
        (sample.name, ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


EXPECTED: Mapping[str, Mapping[str, float]] = {
    "vllm": {
        "vllm:num_requests_running": 4,
        "vllm:num_requests_waiting": 3,
        "vllm:kv_cache_usage_perc": 0.12,
        "vllm:generation_tokens_total": 9,
    },
    "vllm-old": {
        "vllm:num_requests_running": 4,
        "vllm:num_requests_waiting": 3,
        "vllm:num_requests_swapped": 0,
        "vllm:gpu_cache_usage_perc": 0.12,
    },
    "sglang": {
        "sglang:num_running_reqs": 4,
        "sglang:num_queue_reqs": 3,
        "sglang:token_usage": 0.12,
        "sglang:num_used_tokens": 192,
        "sglang:max_total_num_tokens": 1600,
    },
    "bladellm": {"decode_batch_size_mean": 4, "wait_queue_size_mean": 3, "block_usage_gpu_mean": 0.12},
    # The parser adds `_total` to TGI's counters, which come without.
    "tgi": {"tgi_queue_size": 3, "tgi_batch_current_size": 4, "tgi_request_success_total": 1},
    "llamacpp": {
        "llamacpp:requests_processing": 4,
        "llamacpp:requests_deferred": 3,
        "llamacpp:kv_cache_usage_ratio": 0.12,
        "llamacpp:tokens_predicted_total": 9,
    },
    "tensorrt-llm": {
        "trtllm_num_requests_running": 4,
        "trtllm_num_requests_waiting": 3,
        "trtllm_kv_cache_utilization": 0.12,
        "trtllm_kv_cache_tokens_per_block": 16,
    },
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_page_says_what_the_engine_says(dialect: str) -> None:
    values = {name: value for (name, _), value in samples(page(dialect)).items()}
    assert {name: values[name] for name in EXPECTED[dialect]} == pytest.approx(EXPECTED[dialect])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_family_has_a_type_and_no_name_is_there_twice(dialect: str) -> None:
    families = list(text_string_to_metric_families(page(dialect, adapters=("x",))))
    assert all(family.type != "unknown" for family in families)
    names = [family.name for family in families]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_histograms_are_cumulative_and_end_with_their_count(dialect: str) -> None:
    for family in text_string_to_metric_families(page(dialect)):
        if family.type == "histogram":
            buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            counts = [sample.value for sample in family.samples if sample.name.endswith("_count")]
            assert buckets == sorted(buckets)
            assert buckets[-1] == counts[0]


def test_each_rank_has_its_own_series_under_one_port() -> None:
    engine = busy_engine()
    text = page("vllm", engine.statistics(), replace(engine.statistics(), waiting=9))
    assert samples(text)["vllm:num_requests_waiting", "engine=0,model_name=my-model"] == 3
    assert samples(text)["vllm:num_requests_waiting", "engine=1,model_name=my-model"] == 9


def test_waiting_is_split_by_reason_in_a_family_of_a_similar_name() -> None:
    engine = Engine(LIMITS, Speed(1000, decode_step_s=0.01), Random(0))
    for number, adapter in enumerate("xyz"):
        engine.submit(Request(str(number), 32, 50, adapter=adapter), 0.0)
    engine.step(0.0)
    values = samples(page("vllm", engine.statistics()))
    assert values["vllm:num_requests_waiting_by_reason", "engine=0,model_name=my-model,reason=deferred"] == 1
    assert values["vllm:num_requests_waiting_by_reason", "engine=0,model_name=my-model,reason=capacity"] == 0


def test_kv_on_its_way_is_told_as_each_engine_does() -> None:
    """vLLM counts it as waiting and says how much of that it is; SGLang has a queue for it."""
    told = replace(busy_engine().statistics(), waiting=5, loading=3)
    vllm, sglang = samples(page("vllm", told)), samples(page("sglang", told))
    labels = "engine=0,model_name=my-model"
    assert vllm["vllm:num_requests_waiting", labels] == 5
    assert vllm["vllm:num_requests_kv_fetch_by_stage", f"{labels},stage=in_progress"] == 3
    assert [value for (name, _), value in sglang.items() if name == "sglang:num_queue_reqs"] == [2]
    assert [value for (name, _), value in sglang.items() if name == "sglang:num_decode_transfer_queue_reqs"] == [3]


def test_adapter_sets_of_the_past_stay_with_the_time_they_were_last_so() -> None:
    """As in vLLM: only the series with the largest value is true now."""
    engine = busy_engine()
    subject = Page(DIALECTS["vllm"], "my-model", ("x", "y"), LIMITS, started_at=1000.0)
    subject.render([engine.statistics()], now=1.0, unix_now=2000.0)
    engine.cancel("r0")
    text = subject.render([engine.statistics()], now=2.0, unix_now=2001.0).decode()
    values = {labels: value for (name, labels), value in samples(text).items() if name == "vllm:lora_requests_info"}
    assert values == {
        "max_lora=2,running_lora_adapters=x,y,waiting_lora_adapters=": 2000.0,
        "max_lora=2,running_lora_adapters=y,waiting_lora_adapters=": 2001.0,
    }


def test_an_engine_without_adapters_says_nothing_of_them() -> None:
    assert "lora" not in page("vllm")


def test_block_size_and_count_are_labels_of_the_cache_config() -> None:
    text = page("vllm")
    assert 'block_size="16"' in text
    assert 'num_gpu_blocks="100"' in text


def test_throughput_is_taken_over_a_second_or_more() -> None:
    statistics = busy_engine().statistics()
    subject = Page(DIALECTS["bladellm"], "m", (), LIMITS, started_at=0.0)
    subject.render([statistics], now=0.0, unix_now=0.0)
    later = replace(
        statistics, generation_tokens=statistics.generation_tokens + 100, prompt_tokens=statistics.prompt_tokens + 20
    )
    values = samples(subject.render([later], now=2.0, unix_now=2.0).decode())
    assert values["tps_out", ""] == 50
    assert values["tps_total", ""] == 60


def test_a_model_name_with_quotes_does_not_break_the_page() -> None:
    subject = Page(DIALECTS["vllm"], 'a"b\\c', (), LIMITS, started_at=0.0)
    text = subject.render([busy_engine().statistics()], now=0.0, unix_now=0.0).decode()
    assert ("vllm:num_requests_running", 'engine=0,model_name=a"b\\c') in samples(text)
