"""What each engine's /metrics page is read as. The vLLM 0.32.0 page was recorded; the others hold the real names."""

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from igw_api import wire
from igw_extproc.domain import EngineKind, EngineLoad
from igw_extproc.engines import labelled_kind, read
from igw_extproc.exposition import samples

PAGES = Path(__file__).parents[2] / "data" / "engine-metrics"

EXPECTED = {
    "vllm-0.32.0": EngineLoad(
        EngineKind.VLLM,
        running=128.0,
        waiting=172.0,
        kv_usage=0.09376144548895127,
        kv_capacity_tokens=8192 * 128,
        prompt_tokens_total=6440.0,
        generation_tokens_total=96285.0,
        cache_hits_total=3200.0,
        cache_queries_total=6440.0,
        started_at=1.795249655e9,
    ),
    "vllm-0.6.3": EngineLoad(
        EngineKind.VLLM,
        running=31.0,
        waiting=6.0,
        kv_usage=0.8125,
        kv_capacity_tokens=27883 * 16,
        prompt_tokens_total=1048576.0,
        generation_tokens_total=262144.0,
        max_adapters=4,
        running_adapters=frozenset({"sql", "tweets"}),
        waiting_adapters=frozenset({"legal"}),
    ),
    "vllm-data-parallel": EngineLoad(
        EngineKind.VLLM,
        running=40.0,
        waiting=6.0,
        kv_usage=(0.2 * 1000 + 0.8 * 3000) / 4000,
        kv_capacity_tokens=64000,
        prompt_tokens_total=4000.0,
        generation_tokens_total=800.0,
        started_at=1.79524965e9,
    ),
    "sglang-0.5": EngineLoad(
        EngineKind.SGLANG,
        running=12.0,
        waiting=3.0,
        kv_usage=0.28,
        kv_capacity_tokens=471258,
        prompt_tokens_total=8128202.0,
        generation_tokens_total=7557572.0,
    ),
    "sglang-data-parallel": EngineLoad(
        EngineKind.SGLANG,
        running=12.0,
        waiting=3.0,
        kv_usage=(0.9 * 100000 + 0.1 * 300000) / 400000,
        kv_capacity_tokens=400000,
    ),
    "bladellm": EngineLoad(EngineKind.BLADELLM, running=17.5, waiting=3.0, kv_usage=0.6875),
    "tgi-3": EngineLoad(
        EngineKind.TGI, running=4.0, waiting=7.0, prompt_tokens_total=91234.0, generation_tokens_total=8123.0
    ),
    "llamacpp-2024": EngineLoad(
        EngineKind.LLAMACPP,
        running=2.0,
        waiting=1.0,
        kv_usage=0.262451,
        kv_capacity_tokens=8192,
        prompt_tokens_total=900.0,
        generation_tokens_total=1250.0,
    ),
    "llamacpp-2026": EngineLoad(
        EngineKind.LLAMACPP, running=2.0, waiting=1.0, prompt_tokens_total=900.0, generation_tokens_total=1250.0
    ),
    "trtllm-serve-1.3": EngineLoad(
        EngineKind.TENSORRT_LLM,
        running=16.0,
        waiting=5.0,
        kv_usage=0.375,
        kv_capacity_tokens=6239 * 32,
        prompt_tokens_total=52000.0,
        generation_tokens_total=7300.0,
    ),
    "triton-tensorrt-llm": EngineLoad(
        EngineKind.TENSORRT_LLM, running=9.0, waiting=2.0, kv_usage=0.25, kv_capacity_tokens=6240 * 64
    ),
    "unknown": EngineLoad(EngineKind.UNKNOWN, started_at=1.79524965e9),
}


def page(name: str) -> bytes:
    return (PAGES / f"{name}.prom").read_bytes()


def lines(*samples_of_page: str) -> bytes:
    return "".join(f"{line}\n" for line in samples_of_page).encode()


def assert_same(load: EngineLoad, expected: EngineLoad) -> None:
    assert load.kv_usage == pytest.approx(expected.kv_usage)
    assert load == EngineLoad(
        **{name: getattr(expected, name) for name in EngineLoad.__slots__} | {"kv_usage": load.kv_usage}
    )


@pytest.mark.parametrize("name", EXPECTED)
def test_a_page_of_each_engine_is_recognised_and_read(name: str) -> None:
    assert_same(read(page(name)), EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_windows_line_ends_and_a_missing_last_line_end_change_nothing(name: str) -> None:
    assert_same(read(page(name).rstrip().replace(b"\n", b"\r\n")), EXPECTED[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_comments_carry_no_meaning(name: str) -> None:
    bare = b"".join(line for line in page(name).splitlines(keepends=True) if not line.startswith(b"#"))
    assert_same(read(bare), EXPECTED[name])


def test_every_recorded_page_is_expected_here() -> None:
    assert {path.stem for path in PAGES.glob("*.prom")} == EXPECTED.keys()


@pytest.mark.parametrize(
    ("value", "kind"),
    [(kind.value, kind) for kind in EngineKind if kind is not EngineKind.UNKNOWN]
    + [
        ("llama.cpp", EngineKind.LLAMACPP),
        ("trtllm-serve", EngineKind.TENSORRT_LLM),
        ("triton-tensorrt-llm", EngineKind.TENSORRT_LLM),
        ("vLLM", EngineKind.VLLM),
        ("something-else", None),
    ],
)
@pytest.mark.parametrize("label", wire.ENGINE_LABELS)
def test_a_label_names_the_engine(label: str, value: str, kind: EngineKind | None) -> None:
    assert labelled_kind({"app": "x", label: value}) is kind


def test_the_first_engine_label_wins_and_none_leaves_it_to_the_page() -> None:
    ours, *_, legacy = wire.ENGINE_LABELS
    assert labelled_kind({legacy: "vllm", ours: "sglang"}) is EngineKind.SGLANG
    assert labelled_kind({"app": "x"}) is None


def test_the_label_decides_between_two_engines_on_one_page() -> None:
    """A sidecar's exporter may republish another engine's series."""
    both = page("vllm-0.6.3") + page("sglang-0.5")
    assert read(both).engine is EngineKind.VLLM
    assert_same(read(both, EngineKind.SGLANG), EXPECTED["sglang-0.5"])
    assert read(page("sglang-0.5"), EngineKind.VLLM).engine is EngineKind.UNKNOWN


def test_either_exporter_of_tensorrt_llm_is_read_under_its_label() -> None:
    for name in ("trtllm-serve-1.3", "triton-tensorrt-llm"):
        assert_same(read(page(name), EngineKind.TENSORRT_LLM), EXPECTED[name])


@pytest.mark.parametrize(("value", "on"), [("True", True), ("False", False), ("None", True)])
def test_an_engine_may_say_that_it_caches_no_prefixes(value: str, on: bool) -> None:
    text = f'vllm:num_requests_running 1\nvllm:cache_config_info{{enable_prefix_caching="{value}"}} 1\n'
    assert read(text.encode()).caches_prefixes is on


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vllm:gpu_prefix_cache_hits_total 3\nvllm:gpu_prefix_cache_queries_total 7\n", (3.0, 7.0, None)),
        ("vllm:prefix_cache_hits_total 0\nvllm:gpu_prefix_cache_hit_rate 0.5\n", (0.0, None, None)),
        ("vllm:gpu_prefix_cache_hit_rate 0.5\n", (None, None, 0.5)),
        ("vllm:gpu_prefix_cache_hit_rate -1\n", (None, None, None)),
        ("vllm:prompt_tokens_total 9\n", (None, None, None)),
    ],
)
def test_what_a_cache_found_is_read_as_totals_or_else_as_a_rate(
    text: str, found: tuple[float | None, float | None, float | None]
) -> None:
    load = read(f"vllm:num_requests_running 1\n{text}".encode())
    assert (load.cache_hits_total, load.cache_queries_total, load.cache_hit_rate) == found


def test_sglang_tells_what_it_found_by_the_place_of_the_cache() -> None:
    """GPU, host and storage, each a part; `total` for requests of which it does not know more."""
    found = {"device": 30, "host": 20, "storage_file": 10, "total": 5}
    cached = "".join(f'sglang:cached_tokens_total{{cache_source="{place}"}} {n}\n' for place, n in found.items())
    prompt = 'sglang:prompt_tokens_total{is_streaming="true"} 60\nsglang:prompt_tokens_total{is_streaming="false"} 40\n'
    load = read(f"sglang:num_running_reqs 1\n{cached}{prompt}".encode())
    assert (load.cache_hits_total, load.cache_queries_total) == (65.0, 100.0)


def test_sglang_engines_with_one_role_have_further_queues() -> None:
    """KV on its way holds its room; a request without room, or whose other half has none, waits."""
    prefill = lines(
        "sglang:num_running_reqs 1",
        "sglang:num_queue_reqs 2",
        "sglang:num_prefill_bootstrap_queue_reqs 3",
        "sglang:num_prefill_inflight_queue_reqs 4",
    )
    decode = lines(
        "sglang:num_running_reqs 1",
        "sglang:num_queue_reqs 0",
        "sglang:num_decode_prealloc_queue_reqs 5",
        "sglang:num_decode_transfer_queue_reqs 6",
    )
    assert [(one.running, one.waiting) for one in (read(prefill), read(decode))] == [(5.0, 5.0), (7.0, 5.0)]


def test_vllm_counts_requests_whose_kv_is_on_its_way_as_waiting_and_they_do_not() -> None:
    """They have their room. An engine that only waits for KV would otherwise look full."""
    page = lines(
        'vllm:num_requests_running{engine="0"} 2',
        'vllm:num_requests_waiting{engine="0"} 9',
        'vllm:num_requests_kv_fetch_by_stage{engine="0",stage="waiting_to_start"} 1',
        'vllm:num_requests_kv_fetch_by_stage{engine="0",stage="in_progress"} 5',
        'vllm:num_requests_kv_fetch_by_stage{engine="0",stage="completed_waiting"} 3',
    )
    assert (read(page).running, read(page).waiting) == (10.0, 1.0)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("sglang:num_running_reqs 1\nsglang:fwd_occupancy 87.5\n", 0.875),
        ("sglang:num_running_reqs 1\nsglang:fwd_occupancy NaN\n", None),  # idle, or not measured
        ("sglang:num_running_reqs 1\n", None),
        (
            'nv_trt_llm_request_metrics{request_type="scheduled"} 1\n'
            'nv_gpu_utilization{gpu_uuid="a"} 0.25\nnv_gpu_utilization{gpu_uuid="b"} 0.75\n',
            0.5,
        ),
        ('vllm:num_requests_running 1\nDCGM_FI_DEV_GPU_UTIL{gpu="0"} 90\n', None),
    ],
    ids=["SGLang", "SGLang, not measured", "SGLang, not told", "Triton", "an exporter's has a page of its own"],
)
def test_some_engines_tell_how_busy_their_gpus_are(text: str, share: float | None) -> None:
    assert read(text.encode()).gpu == share


def test_sglang_counts_what_it_found_against_all_prompt_tokens() -> None:
    text = b"sglang:num_running_reqs 1\nsglang:prompt_tokens_total 90\nsglang:cached_tokens_total 30\n"
    assert (read(text).cache_hits_total, read(text).cache_queries_total) == (30.0, 90.0)


def test_a_longer_name_is_not_mistaken_for_the_wanted_one() -> None:
    load = read(
        lines(
            'vllm:num_requests_waiting_by_reason{reason="capacity"} 99',
            "vllm:num_requests_waiting_total 98",
            "vllm:num_requests_waiting7 97",
            "xvllm:num_requests_waiting 96",
            "vllm:num_requests_waiting 5",
        )
    )
    assert load.waiting == 5.0


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "garbage", "1e999", "1 2 3", "1_0", "", "0x10", "--1"])
def test_a_value_that_is_no_number_is_passed_over(value: str) -> None:
    load = read(lines(f'vllm:num_requests_running{{engine="0"}} {value}', 'vllm:num_requests_running{engine="1"} 3'))
    assert load.running == 3.0


def test_negative_values_count_as_nothing_and_usage_stays_a_fraction() -> None:
    load = read(
        lines("vllm:num_requests_running -4", "vllm:num_requests_waiting 1", "vllm:kv_cache_usage_perc 1.0000001")
    )
    assert (load.running, load.waiting, load.kv_usage) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "name", [r"a\"b", "a,b", "a}b", "a{b", "a b", r"a\\", r"a\nb", 'x",engine="9'.replace('"', r"\""), ""]
)
def test_label_values_may_hold_any_character(name: str) -> None:
    text = lines(
        f'vllm:num_requests_running{{model_name="{name}",engine="0"}} 2 1795249655000',
        f'vllm:num_requests_running{{ model_name = "{name}" , engine="1", }}\t3e0',
        f'vllm:kv_cache_usage_perc{{model_name="{name}",engine="0"}} 2.5e-1',
        f'vllm:kv_cache_usage_perc{{model_name="{name}",engine="1"}} 7.5E-01',
    )
    load = read(text)
    assert (load.running, load.kv_usage) == (5.0, 0.5)


def test_usage_is_the_plain_mean_where_a_rank_does_not_state_its_capacity() -> None:
    load = read(
        lines(
            'vllm:num_requests_running{engine="0"} 1',
            'vllm:kv_cache_usage_perc{engine="0"} 0.2',
            'vllm:kv_cache_usage_perc{engine="1"} 0.6',
            'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1',
            'vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="None"} 1',
        )
    )
    assert load.kv_usage == pytest.approx(0.4)
    assert load.kv_capacity_tokens == 1600


def test_an_idle_engine_that_names_no_adapters_runs_none() -> None:
    load = read(
        lines(
            "vllm:num_requests_running 0",
            'vllm:lora_requests_info{max_lora="None",running_lora_adapters=" ,",waiting_lora_adapters=""} 5',
        )
    )
    assert (load.max_adapters, load.running_adapters, load.waiting_adapters) == (None, frozenset(), frozenset())


@given(st.binary(max_size=300))
@example(b'vllm:num_requests_running 9e15\nvllm:cache_config_info{num_gpu_blocks="9e15",block_size="9e15"} 1')
@example(b"llamacpp:requests_processing 1\nllamacpp:kv_cache_usage_ratio 5e-324\nllamacpp:kv_cache_tokens 9e15")
def test_no_page_can_make_reading_fail(noise: bytes) -> None:
    for text in (noise, b"vllm:num_requests_running" + noise, b"vllm:cache_config_info{" + noise + page("vllm-0.6.3")):
        load = read(text)
        assert 0.0 <= load.running < math.inf
        assert load.kv_usage is None or 0.0 <= load.kv_usage <= 1.0


VALUES = st.floats(min_value=-1e6, max_value=2.0**53, allow_nan=False).map(repr) | st.integers(-9, 10**12).map(str)
LABELS = st.dictionaries(
    st.sampled_from(("engine", "dp_rank", "model_name", "a")), st.text(st.characters(exclude_categories=["Cs"]))
)


def exposed(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@st.composite
def expositions(draw: st.DrawFn) -> str:
    """Whole pages: families of several samples, beside families whose names begin alike."""
    text = ""
    for name in draw(st.permutations(("wanted", "wanted_by_reason", "wanted_total", "unwanted"))):
        text += f"# HELP {name} Says wanted 1.\n# TYPE {name} gauge\n"
        for labels, value in draw(st.lists(st.tuples(LABELS, VALUES), max_size=4)):
            pairs = ",".join(f'{key}="{exposed(text_value)}"' for key, text_value in labels.items())
            time = draw(st.sampled_from(("", " 1795249655000")))
            text += f"{name}{{{pairs}}} {value}{time}\n" if pairs or draw(st.booleans()) else f"{name} {value}{time}\n"
    return text


@given(expositions())
def test_samples_agree_with_the_reference_parser(text: str) -> None:
    expected = [
        (dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "wanted"
    ]
    assert [(dict(labels), value) for labels, value in samples(text.encode(), b"wanted")] == expected
