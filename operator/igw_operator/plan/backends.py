"""Which endpoints stand behind a name: pools and Services to clusters. Pure.

A Service without a manifest of its own is taken from the InferencePool of the same name: without Kubernetes there is
often no Service object, and the pool says which endpoints are meant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from igw_api.objects import (
    BackendKind,
    BackendRef,
    FailureMode,
    Key,
    Member,
    Policy,
    Pool,
    Service,
    addresses,
    join_host_port,
    selects,
)
from igw_api.resilience import PassiveHealth
from igw_api.split import Role
from igw_operator.plan.model import Cluster, Resilience

H2C = "kubernetes.io/h2c"


# What nobody places and scrapes: the proxy alone decides who is out, and finds out by asking again who is in.
_UNPLACED = Resilience(
    passive_health=PassiveHealth(threshold=0.0, base_ejection=5.0, max_ejection=60.0, full_statuses=())
)


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that a backend reference may name."""

    pools: Mapping[Key, Pool]
    services: Mapping[Key, Service]
    members: tuple[Member, ...] = field(default=())
    policies: Mapping[Key, Policy] = field(default_factory=dict)  # by pool: the one that applies

    def cluster(self, ref: BackendRef) -> Cluster | str:
        """The cluster that `ref` means, or why there is none."""
        if ref.kind is BackendKind.POOL:
            pool = self.pools.get(ref.key)
            return self.pool_cluster(pool) if pool else f"no InferencePool {ref.key}"
        service = self.services.get(ref.key)
        if service is not None:
            return _service_cluster(service, ref, self.members)
        pool = self.pools.get(ref.key)
        if pool is None:
            return f"no Service {ref.key}, and no InferencePool of that name"
        return _cluster(service_name(ref), self._pool_addresses(pool), placed=False, http2=_http2(pool))

    def pool_cluster(self, pool: Pool) -> Cluster:
        """The cluster of a pool whose requests the picker places."""
        cluster = _cluster(f"pool/{pool.key}", self._pool_addresses(pool), placed=True, http2=_http2(pool))
        policy = self.policies.get(pool.key)
        treated = Resilience(retry=policy.retry, passive_health=policy.passive_health) if policy else Resilience()
        return replace(cluster, only_placed=pool.failure_mode is FailureMode.CLOSE, resilience=treated)

    def _pool_addresses(self, pool: Pool) -> Iterable[str]:
        """Without those that only compute prompts: the proxy must never choose one of them by itself."""
        policy = self.policies.get(pool.key)
        split = policy.split if policy is not None else None
        for member in self.members:
            answers = split is None or split.role(member.labels) in (Role.DECODE, Role.BOTH)
            if answers and member.ready and member.key.namespace == pool.key.namespace:
                yield from addresses(pool, member)


def service_name(ref: BackendRef) -> str:
    """The cluster's name for a Service's port."""
    return f"service/{ref.key}/{ref.port}"


def _service_cluster(service: Service, ref: BackendRef, members: Iterable[Member]) -> Cluster | str:
    target = service.ports.get(ref.port or 0)
    if target is None:
        return f"Service {ref.key} has no port {ref.port}"
    chosen = (
        join_host_port(member.address, member.port or target)
        for member in members
        if member.ready and member.key.namespace == service.key.namespace and selects(service.selector, member.labels)
    )
    return _cluster(service_name(ref), chosen, placed=False, http2=False)


def _cluster(name: str, endpoints: Iterable[str], *, placed: bool, http2: bool) -> Cluster:
    addresses = tuple(sorted(set(endpoints)))
    return Cluster(name=name, endpoints=addresses, placed=placed, http2=http2, resilience=_UNPLACED)


def _http2(pool: Pool) -> bool:
    return pool.app_protocol == H2C
