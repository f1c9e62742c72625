"""Which engines of a fleet compute prompts and which answer, where a policy divides requests. Pure.

Called by `product` and `virtual`, so that both divide alike, and by `options`, which checks what was asked for.
"""

from collections.abc import Sequence

from igw_api.split import Role
from igw_bench.prefill_decode import PREFILLERS
from igw_bench.workloads import Workload
from igw_extproc.scheduling.policies import SPLITS

_DYNAMIC = SPLITS[1]


def roles(policy: str, workload: Workload, prefillers: int | None = None) -> tuple[Role, ...]:
    """Of each engine; empty where `policy` divides nothing. `prefillers`: how many compute prompts; None: as is best.

    That is what workload E was made for, else half of them; and in a dynamic pool all engines are for both.
    """
    engines = len(workload.fleet)
    if policy not in SPLITS:
        return ()
    if prefillers is None and policy == _DYNAMIC:
        return (Role.BOTH,) * engines
    count = (PREFILLERS if workload.name == "E" else engines // 2) if prefillers is None else prefillers
    count = min(max(count, 1), engines - 1)
    return (Role.PREFILL,) * count + (Role.DECODE,) * (engines - count)


def answering(names: Sequence[str], divided: Sequence[Role]) -> tuple[str, ...]:
    """Those of the engines that clients hear of."""
    return tuple(name for name, role in zip(names, divided, strict=True) if role is not Role.PREFILL) or tuple(names)
