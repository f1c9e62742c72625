"""How long a new listener waits for its first picker. No I/O.

Envoy looks again after a minute only at a picker that did not answer the first time, and Envoy Gateway has no setting
for that. So the way past a picker is made when its first Pod is available; or after a while without one, because the
pool is better served without a picker than not at all. What was made once is never taken back for that.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from igw_api.objects import Key
from igw_operator.controller.resources import BY_KIND
from igw_operator.controller.store import View, is_ours

_DEPLOYMENT, _WAY = BY_KIND["Deployment"], BY_KIND["EnvoyExtensionPolicy"]


@dataclass(slots=True)
class Patience:
    """`seconds`: the longest wait for one picker, counted from when this operator first wanted it."""

    seconds: float
    _since: dict[Key, float] = field(default_factory=dict, init=False)

    def waits_for(self, pickers: Iterable[Key], view: View, now: float) -> frozenset[Key]:
        """Those of all `pickers` that are waited for. `now`: loop time."""
        self._since = {key: self._since.get(key, now) for key in pickers}
        waited_long = {key for key, since in self._since.items() if now >= since + self.seconds}
        return frozenset(
            key for key in self._since if key not in waited_long and not _is_led_past(key, view) and _is_down(key, view)
        )

    def end(self, awaited: Iterable[Key]) -> float | None:
        """When the first of these waits ends, in loop time."""
        return min((self._since[key] + self.seconds for key in awaited), default=None)


def _is_led_past(picker: Key, view: View) -> bool:
    policy = view.get(_WAY, picker)
    return policy is not None and is_ours(policy)


def _is_down(picker: Key, view: View) -> bool:
    deployment = view.get(_DEPLOYMENT, picker)
    return not (deployment or {}).get("status", {}).get("availableReplicas", 0)
