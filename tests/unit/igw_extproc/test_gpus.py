"""Whose GPUs an exporter's page tells of, and where its page is."""

import pytest

from igw_extproc.domain import Endpoint, EngineKind, EngineLoad
from igw_extproc.gpus import Source, share, source
from igw_extproc.ledgers import Ledgers

PORT, HOST, GPUS = (f"inferencegateway.io/{name}" for name in ("gpu-metrics-port", "gpu-metrics-host", "gpus"))
NODE, POD = "inferencegateway.io/node-address", "inferencegateway.io/pod"

# dcgm-exporter on a node with two Pods, one of them with two GPUs, and a GPU that nobody has.
NODES = b"""
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",container="engine",namespace="llm",pod="one"} 40
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",container="engine",namespace="llm",pod="one"} 80
DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-c",container="engine",namespace="llm",pod="two"} 100
DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-d",container="",namespace="",pod=""} 0
"""
HOSTS = b"""
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a"} 10
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b"} 30
DCGM_FI_DEV_GPU_UTIL{gpu="10",UUID="GPU-c"} 50
"""


def of(pod: tuple[str, str] | None = None, *numbers: str) -> Source:
    return Source("10.0.0.1:9400", pod, frozenset(numbers))


@pytest.mark.parametrize(("name", "value"), [("one", 0.6), ("two", 1.0), ("three", None)])
def test_a_nodes_exporter_names_the_pod_that_has_a_gpu(name: str, value: float | None) -> None:
    assert share(NODES, of=of(("llm", name))) == value
    assert share(NODES, of=of(("other", name))) is None


@pytest.mark.parametrize(
    ("numbers", "value"), [((), 0.3), (("1",), 0.3), (("0", "10"), 0.3), (("0",), 0.1), (("7",), None)]
)
def test_engines_of_one_machine_may_name_their_gpus_by_number(numbers: tuple[str, ...], value: float | None) -> None:
    assert share(HOSTS, of=of(None, *numbers)) == pytest.approx(value)


def test_an_exporter_that_knows_of_no_pods_tells_of_its_own_gpus() -> None:
    """One in the Pod itself sees no others."""
    assert share(HOSTS, of=of(("llm", "one"))) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("page", "value"),
    [
        (b'\nDCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0"} 0.5\nDCGM_FI_DEV_GPU_UTIL{gpu="0"} 90', 0.5),
        (b'\ngpu_gfx_activity{gpu_id="0",pod=""} 25', 0.25),
        (b'\namd_gpu_gfx_activity{gpu_id="0"} 25', 0.25),
        (b'\nDCGM_FI_DEV_GPU_UTIL{gpu="0"} 101', 1.0),
        (b'\nDCGM_FI_DEV_GPU_UTIL{gpu="0"} -1', None),
        (b'\nDCGM_FI_DEV_GPU_TEMP{gpu="0"} 60', None),
        (b"", None),
    ],
)
def test_the_exporters_of_two_makers_are_read(page: bytes, value: float | None) -> None:
    """The share of a part of a GPU goes before that of the whole."""
    assert share(page, of=of()) == value


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({}, None),
        ({PORT: "9400"}, Source("10.0.0.1:9400")),
        ({PORT: "9400", GPUS: "0_1"}, Source("10.0.0.1:9400", None, frozenset({"0", "1"}))),
        ({PORT: "9400", POD: "llm/one"}, Source("10.0.0.1:9400", ("llm", "one"))),
        ({PORT: "9400", HOST: "node", NODE: "10.1.0.7"}, Source("10.1.0.7:9400")),
        ({PORT: "9400", HOST: "node"}, None),
        ({PORT: "0"}, None),
        ({PORT: "many"}, None),
        ({HOST: "node", NODE: "10.1.0.7"}, None),
    ],
)
def test_labels_say_where_the_page_is(labels: dict[str, str], found: Source | None) -> None:
    assert source(Endpoint("10.0.0.1:8000", labels)) == found


def test_an_address_of_six_is_written_as_in_a_url() -> None:
    assert source(Endpoint("[fd00::1]:8000", {PORT: "9400"})) == Source("[fd00::1]:9400")


def test_an_exporters_word_goes_before_the_engines_until_it_is_silent() -> None:
    ledgers = Ledgers()
    ledgers.sync([Endpoint("10.0.0.1:8000")])
    engine = EngineLoad(EngineKind.SGLANG, gpu=0.9)
    said = [tell(ledgers, engine)]
    ledgers.gpu_told("10.0.0.1:8000", 0.5)
    said.append(tell(ledgers, engine))
    ledgers.gpu_told("10.0.0.1:8000", None)
    said += [ledgers.statistics()[0].gpu, tell(ledgers, engine), tell(ledgers, EngineLoad(EngineKind.SGLANG))]
    assert said == [0.9, 0.5, None, 0.9, None]


def test_nothing_is_known_of_who_has_left_or_is_not_known() -> None:
    ledgers = Ledgers()
    ledgers.sync([Endpoint("10.0.0.1:8000")])
    ledgers.gpu_told("10.0.0.1:8000", 0.5)
    ledgers.sync([Endpoint("10.0.0.2:8000")])
    ledgers.gpu_told("10.0.0.1:8000", 0.5)
    assert (ledgers.statistics()[0].gpu, ledgers.gpus) == (None, {})


def tell(ledgers: Ledgers, load: EngineLoad) -> float | None:
    """The engine was scraped; what is known then."""
    ledgers.scraped("10.0.0.1:8000", ledgers.scrape_started("10.0.0.1:8000"), load, 0.0)
    return ledgers.statistics()[0].gpu
