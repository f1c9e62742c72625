"""How busy an endpoint's GPUs are, by an engine's own page or by that of an exporter beside it. Pure.

Called by `engines` for what engines tell, and by `gpu_watch` for pages of exporters, which an endpoint's labels name.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from igw_api import wire
from igw_api.objects import join_host_port
from igw_extproc.domain import Endpoint
from igw_extproc.exposition import Sample, samples


class Share(NamedTuple):
    """A series that tells it for each GPU, and what its numbers are to be multiplied by to be 0..1."""

    name: bytes
    scale: float = 1.0


# NVIDIA's exporter (share of time in which anything ran; the first also of a part of a GPU), and AMD's with its two
# usual prefixes.
EXPORTERS: Final = (
    Share(b"DCGM_FI_PROF_GR_ENGINE_ACTIVE"),
    Share(b"DCGM_FI_DEV_GPU_UTIL", 0.01),
    Share(b"gpu_gfx_activity", 0.01),
    Share(b"amd_gpu_gfx_activity", 0.01),
)
_NUMBER_LABELS: Final = ("gpu", "gpu_id")


class Source(NamedTuple):
    """An exporter's page, `host:port`, and whose GPUs on it count: a Pod's, or those with these numbers. Else all."""

    address: str
    pod: tuple[str, str] | None = None  # namespace and name
    numbers: frozenset[str] = frozenset()


def source(endpoint: Endpoint) -> Source | None:
    """Where the labels say that an exporter tells of this endpoint's GPUs. None: they do not."""
    labels = endpoint.labels
    port = labels.get(wire.GPU_METRICS_PORT_LABEL, "")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        return None
    host = endpoint.address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    if labels.get(wire.GPU_METRICS_HOST_LABEL) == wire.GPU_METRICS_NODE:
        host = labels.get(wire.NODE_ADDRESS_LABEL, "")
        if not host:
            return None
    namespace, _, name = labels.get(wire.POD_LABEL, "").partition("/")
    numbers = frozenset(filter(None, labels.get(wire.GPUS_LABEL, "").split("_")))
    return Source(join_host_port(host, int(port)), (namespace, name) if name else None, numbers)


def share(text: bytes, series: Sequence[Share] = EXPORTERS, of: Source | None = None) -> float | None:
    """The mean over the GPUs that count, by the first of `series` that tells of any. None: none does."""
    for one in series:
        told = samples(text, one.name)
        found = [sample.value for sample in (told if of is None else _own(told, of)) if sample.value >= 0.0]
        if found:
            return min(sum(found) / len(found) * one.scale, 1.0)
    return None


def _own(told: Sequence[Sample], of: Source) -> Sequence[Sample]:
    """An exporter that knows of Pods names the one that has a GPU, and none where nobody has it."""
    if of.pod is not None and any(sample.labels.get("pod") for sample in told):
        return [one for one in told if (one.labels.get("namespace", ""), one.labels.get("pod", "")) == of.pod]
    if of.numbers:
        return [one for one in told if any(one.labels.get(name) in of.numbers for name in _NUMBER_LABELS)]
    return told
