"""How a pool divides a request: one endpoint computes the prompt (prefill), another the answer (decode). Values only.

Both planes ask `Split.role` what an endpoint is there for: the picker chooses by it, and the operator keeps endpoints
that only compute prompts out of what the proxy may choose by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from igw_api.wire import ROLE_LABELS


class Role(StrEnum):
    """Which part of requests an endpoint serves."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class PrefillFailure(StrEnum):
    """What becomes of a request that no prefill endpoint can take: refused, computed by its decode endpoint, or kept
    waiting until one is there."""

    STRICT = "strict"
    DECODE = "decode"
    QUEUE = "queue"


# llm-d's newer word for `both`.
_WORDS = {**{role.value: role for role in Role}, "prefill-decode": Role.BOTH}


@dataclass(frozen=True, slots=True)
class Split:
    """One pool's division. `prefill` and `decode` are names of placement policies.

    `min_uncached`: uncached prompt tokens below which a dynamic pool does not divide a request. `transfer`: what it
    takes to move a prompt token to the decode endpoint, as a share of computing it; `nearby`: what it takes between
    endpoints with the same value of a label, by label, nearest first and never more than the next. `dwell`: seconds
    for which an endpoint of a dynamic pool keeps a role at least.
    """

    dynamic: bool = False
    prefill: str = "prefix-cache"
    decode: str = "least-token"
    prefill_labels: Mapping[str, str] = field(default_factory=dict)
    decode_labels: Mapping[str, str] = field(default_factory=dict)
    on_failure: PrefillFailure = PrefillFailure.DECODE
    min_uncached: int = 256
    transfer: float = 0.1
    dwell: float = 60.0
    nearby: tuple[tuple[str, float], ...] = ()

    def role(self, labels: Mapping[str, str]) -> Role | None:
        """What an endpoint with these labels is for. None: for nothing.

        With labels configured, whoever has all of them; configured for one role only, the others have the other.
        Else by the role label, and without one for decode: that serves whole requests too.
        """
        if not self.prefill_labels and not self.decode_labels:
            word = next((labels[name] for name in ROLE_LABELS if name in labels), Role.DECODE.value)
            return _WORDS.get(word)
        prefill, decode = _has(labels, self.prefill_labels), _has(labels, self.decode_labels)
        if not self.decode_labels:
            decode = not prefill
        elif not self.prefill_labels:
            prefill = not decode
        if prefill and decode:
            return Role.BOTH
        return Role.PREFILL if prefill else Role.DECODE if decode else None


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return bool(wanted) and all(labels.get(name) == value for name, value in wanted.items())
