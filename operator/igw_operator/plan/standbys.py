"""Where requests may go that their pool cannot take: which standbys, of those that policies name, can be led to. Pure.

What cannot (a pool that is not there, a Secret that is not) is left out and is a condition of the policy; the rest of
the chain serves.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from igw_api.certificate import AUTHORITIES
from igw_api.objects import Key, Policy
from igw_api.objectset import ObjectSet
from igw_api.resolution import winning_policy
from igw_api.standby import CREDENTIAL, Provider, Standby
from igw_operator.plan.model import Condition, Overflow, ProviderCluster


@dataclass(slots=True)
class Standbys:
    """By pool, in the order of the chain; and the clusters of providers."""

    by_pool: dict[Key, tuple[Overflow, ...]] = field(default_factory=dict)
    providers: dict[str, ProviderCluster] = field(default_factory=dict)
    conditions: list[Condition] = field(default_factory=list)

    @property
    def keys(self) -> frozenset[str]:
        """All that may be led to."""
        return frozenset(one.key for chain in self.by_pool.values() for one in chain)


def find_standbys(objects: ObjectSet, *, sees_secrets: bool) -> Standbys:
    """The standbys of all pools. `sees_secrets` False: whether a Secret is there is somebody else's to find out."""
    found = Standbys()
    for pool in objects.pools:
        policy = winning_policy(pool, objects.policies.values())
        if policy is not None and policy.standbys:
            found.by_pool[pool] = tuple(_chain(pool, policy, objects, found, sees_secrets))
    return found


def only_led_to(objects: ObjectSet, keys: frozenset[str]) -> Mapping[Key, Policy]:
    """The policies as pickers shall have them: with the standbys that the proxy knows."""
    return {
        key: replace(policy, standbys=tuple(one for one in policy.standbys if one.key in keys))
        for key, policy in objects.policies.items()
    }


def _chain(pool: Key, policy: Policy, objects: ObjectSet, found: Standbys, sees_secrets: bool) -> Iterator[Overflow]:
    for one in policy.standbys:
        missing = _missing(pool, policy, one, objects, sees_secrets)
        if missing is not None:
            reason, message = missing
            told = f"standby {one.name} is not in use: {message}"
            condition = Condition("InferencePoolPolicy", policy.key, "ResolvedRefs", False, reason, told)
            if condition not in found.conditions:
                found.conditions.append(condition)
            continue
        if one.provider is None:
            yield Overflow(one.key, one.name, pool=next(key for key in objects.pools if str(key) == one.pool))
            continue
        found.providers[one.key] = _cluster(one, one.provider, policy, objects)
        yield Overflow(one.key, one.name, provider=found.providers[one.key])


def _missing(pool: Key, policy: Policy, one: Standby, objects: ObjectSet, sees_secrets: bool) -> tuple[str, str] | None:
    """Reason and message, where it cannot be led to."""
    if one.pool is not None:
        if one.pool == str(pool):
            return "InvalidPool", "a pool is not its own standby"
        known = any(str(key) == one.pool for key in objects.pools)
        return None if known else ("PoolNotFound", f"no InferencePool {one.pool}")
    assert one.provider is not None, "a pool or a provider"
    if not sees_secrets:
        return None
    wanted = ((one.provider.credential, CREDENTIAL), (one.provider.authorities, AUTHORITIES))
    for name, entry in wanted:
        if name is None:
            continue
        secret = objects.secrets.get(Key(policy.key.namespace, name))
        if secret is None:
            return "SecretNotFound", f"no Secret {policy.key.namespace}/{name}"
        if not secret.data.get(entry, "").strip():
            return "InvalidSecret", f"Secret {secret.key} has no `{entry}`"
    return None


def _cluster(one: Standby, provider: Provider, policy: Policy, objects: ObjectSet) -> ProviderCluster:
    namespace = policy.key.namespace
    secret = objects.secrets.get(Key(namespace, provider.authorities)) if provider.authorities else None
    return ProviderCluster(
        name=one.key,
        provider=provider,
        credential=Key(namespace, provider.credential) if provider.credential else None,
        authorities=secret.data.get(AUTHORITIES) if secret is not None else None,
    )
