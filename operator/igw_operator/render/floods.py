"""What all clients together may take of Envoy: bounds that only floods reach. Pure; called by `bootstrap`.

What one client may take is in the plan (`ClientRules`), since it is the same under Envoy Gateway, which has bounds of
its own for all of them together.
"""

from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.overload import v3 as overload_v3
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections import v3 as connections_v3
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap import v3 as heap_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_operator.render.files import Surroundings

_HEAP: Final = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS: Final = "envoy.resource_monitors.global_downstream_max_connections"
# By the share of the heap that is taken: give free pages back to the system, then refuse new requests with 503.
_ACTIONS: Final = {"envoy.overload_actions.shrink_heap": 0.9, "envoy.overload_actions.stop_accepting_requests": 0.95}


def bounds(around: Surroundings) -> overload_v3.OverloadManager:
    """How many connections clients may have, and where memory is known, how much of it Envoy may take."""
    connections = connections_v3.DownstreamConnectionsConfig(max_active_downstream_connections=around.connections)
    if around.heap is None:
        return overload_v3.OverloadManager(resource_monitors=[_monitor(_CONNECTIONS, connections)])
    heap = heap_v3.FixedHeapConfig(max_heap_size_bytes=around.heap)
    return overload_v3.OverloadManager(
        resource_monitors=[_monitor(_CONNECTIONS, connections), _monitor(_HEAP, heap)],
        actions=[_action(name, share) for name, share in _ACTIONS.items()],
    )


def _monitor(name: str, config: betterproto2.Message) -> overload_v3.ResourceMonitor:
    return overload_v3.ResourceMonitor(name=name, typed_config=PackedAny.pack(config))


def _action(name: str, share: float) -> overload_v3.OverloadAction:
    trigger = overload_v3.Trigger(name=_HEAP, threshold=overload_v3.ThresholdTrigger(value=share))
    return overload_v3.OverloadAction(name=name, triggers=[trigger])
