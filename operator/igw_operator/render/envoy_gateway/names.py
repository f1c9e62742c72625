"""Names and labels of the objects that we create. Pure.

A name says what the object is for. It is bounded, and gets a part of a hash where it had to be cut, where it holds what
a Service's name may not, or where two would be the same.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from igw_api import wire
from igw_api.objects import Key
from igw_operator.plan.model import Site

PREFIX = "igw"
LONGEST = 52  # room for the suffixes that controllers add to the names of Pods
HASH_LENGTH = 8
LABEL_LENGTH = 63
FRONT = "front"


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one plan's objects. Made by `names_of`."""

    sites: Mapping[Site, str]
    pools: Mapping[Key, str]
    routes: Mapping[tuple[Site, Key], str]

    def site(self, site: Site) -> Key:
        """What a picker's objects are called, in the Gateway's namespace."""
        return Key(site.gateway.namespace, self.sites[site])

    def front(self, site: Site) -> Key:
        """The Service that stands before a picker's."""
        return Key(site.gateway.namespace, f"{self.sites[site]}-{FRONT}")

    def pods(self, site: Site, namespace: str) -> Key:
        """The permission to see the Pods of `namespace`: two Gateways of one name may need it there."""
        return Key(namespace, bounded((PREFIX, *site.gateway, site.listener, "pods")))

    def service(self, pool: Key) -> Key:
        """The Service of a pool's endpoints."""
        return Key(pool.namespace, self.pools[pool])

    def route(self, site: Site, pool: Key) -> Key:
        """A pool's route on a listener, and the policies for it."""
        return Key(pool.namespace, self.routes[site, pool])


def names_of(sites: Iterable[Site]) -> Names:
    """The names for these sites and their pools; no two objects of a kind share one."""
    listed = list(sites)
    parts = {site: (PREFIX, site.gateway.name, site.listener) for site in listed}
    seen = Counter((site.gateway.namespace, bounded(parts[site])) for site in listed)
    by_site = {
        site: bounded(parts[site], hashed=seen[site.gateway.namespace, bounded(parts[site])] > 1) for site in listed
    }
    taken = {(site.gateway.namespace, name) for site, name in by_site.items()}
    taken |= {(namespace, f"{name}-{FRONT}") for namespace, name in taken}
    pools: dict[Key, str] = {}
    routes: dict[tuple[Site, Key], str] = {}
    for site in listed:
        for pool in site.pools:
            plain = bounded((PREFIX, pool.name))
            again = pool in pools  # listeners that share a port by host name: each has a route of its own
            pools.setdefault(pool, bounded((PREFIX, pool.name), hashed=(pool.namespace, plain) in taken))
            further = bounded((PREFIX, pool.name, *site.gateway, site.listener), hashed=True)
            routes[site, pool] = further if again else pools[pool]
    return Names(by_site, pools, routes)


def bounded(parts: tuple[str, ...], *, hashed: bool = False) -> str:
    """A name of at most 52 characters that a Service may have: one DNS label."""
    plain = "-".join(parts)
    if not hashed and len(plain) <= LONGEST and "." not in plain:
        return plain
    digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:HASH_LENGTH]
    return f"{plain.replace('.', '-')[: LONGEST - HASH_LENGTH - 1].rstrip('-')}-{digest}"


def site_labels(site: Site, names: Names) -> dict[str, str]:
    """Labels of what belongs to a listener."""
    return {
        **managed(),
        wire.GATEWAY_NAMESPACE_LABEL: label(site.gateway.namespace),
        wire.GATEWAY_LABEL: label(site.gateway.name),
        wire.LISTENER_LABEL: label(site.listener),
        wire.PICKER_LABEL: names.sites[site],
    }


def pool_labels(pool: Key) -> dict[str, str]:
    """Labels of what belongs to a pool."""
    return {**managed(), wire.POOL_NAMESPACE_LABEL: label(pool.namespace), wire.POOL_LABEL: label(pool.name)}


def managed() -> dict[str, str]:
    """The label that says that an object is ours."""
    return {wire.MANAGED_BY_LABEL: wire.MANAGED_BY}


def label(value: str) -> str:
    """A name as a label's value, which is shorter."""
    if len(value) <= LABEL_LENGTH:
        return value
    digest = hashlib.sha256(value.encode()).hexdigest()[:HASH_LENGTH]
    return f"{value[: LABEL_LENGTH - HASH_LENGTH - 1].rstrip('-.')}-{digest}"
