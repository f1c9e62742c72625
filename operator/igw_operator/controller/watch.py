"""kopf, inside our process: it watches every kind into the store, and pauses while another operator is in charge.

Only events are handled: kopf writes nothing to users' objects, neither annotations nor finalizers. What it writes is
its record in the ClusterKopfPeering. A kind whose CRD comes later is watched from then on.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import kopf

from igw_operator.controller.peers import LIFETIME
from igw_operator.controller.resources import WATCHED, Resource
from igw_operator.controller.store import Store, key_of

_QUICK: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
_SLOW: Final = 10.0

Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


class _WithoutEnd:
    """Pauses between tries of one request. An API server that is away comes back; until then there is nothing to do."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain(_QUICK, itertools.repeat(_SLOW))


async def watch(
    store: Store,
    login: Login,
    *,
    peering: str | None,
    identity: str,
    priority: int,
    started: asyncio.Event,
    stopping: asyncio.Event,
) -> None:
    """Fill the store until `stopping`. `started` is set when kopf runs, which takes over the signals until then."""
    await kopf.operator(
        registry=_registry(store, login),
        settings=_settings(priority),
        identity=identity,  # type: ignore[arg-type]  # a NewType of kopf's own, not exported
        standalone=peering is None,
        peering_name=peering,
        clusterwide=True,
        ready_flag=started,
        stop_flag=stopping,
    )


def _settings(priority: int) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.peering.lifetime = LIFETIME
    settings.peering.priority = priority
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None  # the kubelet's grace period ends it as well
    settings.networking.error_backoffs = _WithoutEnd()
    settings.networking.connect_timeout = 5.0
    for resource in WATCHED:
        if resource.selector is not None:
            settings.watching.label_selectors[_is(resource)] = resource.selector
    return settings


def _is(resource: Resource) -> Callable[[kopf.Resource], bool]:
    return lambda one: (one.group, one.plural) == (resource.group, resource.plural)


def _registry(store: Store, login: Login) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    for resource in WATCHED:
        kopf.on.event(
            group=resource.group,
            version=resource.version,
            plural=resource.plural,
            id=f"store-{resource.name}",
            registry=registry,
        )(_handler(store, resource))
    return registry


def _handler(store: Store, resource: Resource) -> Any:
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        body: Any = event["object"]
        if event["type"] == "DELETED":
            store.drop(resource, key_of(body), body["metadata"].get("uid"))
        else:
            # Only listings give no type.
            store.put(resource, body, listed=event["type"] is None)

    return seen


def quiet_kopf(level: int) -> None:
    """kopf tells of every request and object; what matters of it we say ourselves."""
    logging.getLogger("kopf").setLevel(max(level, logging.WARNING))
    logging.getLogger("kopf.objects").setLevel(logging.ERROR)
