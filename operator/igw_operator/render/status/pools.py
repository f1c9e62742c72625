"""What is said of a pool on each Gateway that it has to do with. Pure.

The plan says what we want; that Envoy Gateway took it, and that nobody else's object is in the way, is read from the
statuses of our own objects.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from igw_api.objects import BackendKind, FailureMode, Key, Pool, addresses
from igw_operator.plan.model import Condition, Site
from igw_operator.render.envoy_gateway.access import security_policy
from igw_operator.render.envoy_gateway.names import Names, names_of
from igw_operator.render.envoy_gateway.values import Identity
from igw_operator.render.status.values import Entry, Facts, Said

ACCEPTED = "Accepted"
TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
_SITE_KINDS = ("ConfigMap", "ServiceAccount", "Role", "RoleBinding", "Service", "Deployment")
_POLICY_KINDS = ("ClientTrafficPolicy", "EnvoyExtensionPolicy")
_JUDGED_KINDS = ("BackendTrafficPolicy", "SecurityPolicy", "HTTPRoute")


@dataclass(frozen=True, slots=True)
class Pools:
    """The facts by pool. Made by `pools_of`, once for all pools."""

    facts: Facts
    names: Names
    sites: Mapping[Key, tuple[Site, ...]]
    planned: Mapping[tuple[Key, Key | None], Condition]  # by pool and Gateway
    routes: Mapping[Key, Mapping[Key, Key]]  # users' routes that name a pool: by pool and Gateway
    named: Mapping[Key, Site]  # the site that has a Service which pools name as their picker

    def entries(self, key: Key) -> tuple[Entry, ...]:
        """One entry per Gateway, in the order of their names."""
        pool = self.facts.objects.pools[key]
        gateways = {*self.routes.get(key, {})} | ({pool.attach_to.gateway} if pool.attach_to else set())
        if not gateways:
            advice = "no listener leads to it: annotate it with attach-to"
            return (Entry(None, (Said(ACCEPTED, FALSE, "NotExposed", advice),)),)
        return tuple(Entry(gateway, tuple(self._said(pool, gateway))) for gateway in sorted(gateways))

    def _said(self, pool: Pool, gateway: Key) -> Iterator[Said]:
        route = self.routes.get(pool.key, {}).get(gateway)
        told = f"HTTPRoute {route} names the pool, which Envoy Gateway does not serve; annotate the pool with attach-to"
        if pool.attach_to is None or pool.attach_to.gateway != gateway:
            yield Said(ACCEPTED, FALSE, "HTTPRouteNotAccepted", told)
            return
        yield self._accepted(pool, gateway)
        if sites := self.sites.get(pool.key, ()):
            yield self._resolved(pool, sites)
            yield self._picker(pool, sites[0])
            yield _backends(pool, self.facts)
        if route:
            yield Said("RoutesSupported", FALSE, "InvalidKind", f"{told}, as it is, and remove the reference")

    def _accepted(self, pool: Pool, gateway: Key) -> Said:
        planned = self.planned.get((pool.key, gateway))
        if planned is None or not planned.status:
            found = planned or self.planned.get((pool.key, None))
            return Said(ACCEPTED, FALSE, found.reason, found.message) if found else _pending("the plan")
        sites = self.sites.get(pool.key, ())
        needed = [one for site in sites for one in self._needed(pool, site)]
        for kind, key in needed:
            if (kind, key) in self.facts.observed.foreign:
                told = f"{kind} {key} is needed, and exists already, but is not ours; remove or rename it"
                return Said(ACCEPTED, FALSE, "Conflicted", told)
        for picker in (self.names.site(site) for site in sites):
            if picker in self.facts.observed.awaited:
                return _pending(f"the first Pod of Deployment {picker}")
        return self._judged([one for one in needed if one[0] in (*_POLICY_KINDS, *_JUDGED_KINDS)])

    def _needed(self, pool: Pool, site: Site) -> Iterator[Identity]:
        """What must be ours for the pool to work."""
        picker, route = self.names.site(site), self.names.route(site, pool.key)
        yield from ((kind, picker) for kind in (*_SITE_KINDS, *_POLICY_KINDS))
        yield from (("Service", self.names.front(site)), ("Service", self.names.service(pool.key)))
        yield from (("BackendTrafficPolicy", route), ("HTTPRoute", route))
        if policy := security_policy(site, pool.key, self.facts.plan.guards, self.names):
            yield "SecurityPolicy", policy

    def _judged(self, needed: Iterable[Identity]) -> Said:
        """What Envoy Gateway says of our objects: the first refusal, else what it has not said anything of yet."""
        silent = []
        for kind, key in needed:
            status = self.facts.observed.statuses.get((kind, key), {})
            said = [one for entry in _entries(status) for one in entry.get("conditions") or []]
            for one in said:
                if refusal := _refusal(kind, one):
                    told = f"Envoy Gateway says of {kind} {key}: {one.get('reason')}: {one.get('message')}"
                    return Said(ACCEPTED, FALSE, refusal, told)
            if not said:
                silent.append(f"{kind} {key}")
        return (
            _pending(f"Envoy Gateway's word on {', '.join(silent)}")
            if silent
            else Said(ACCEPTED, TRUE, ACCEPTED, "attached")
        )

    def _resolved(self, pool: Pool, sites: tuple[Site, ...]) -> Said:
        type_ = "ResolvedRefs"
        key = Key(pool.key.namespace, pool.picker or "")
        if pool.picker and ("Service", key) in self.facts.observed.foreign:
            told = f"Service {key} exists already and is not ours, so it is left alone; name another one, or remove it"
            return Said(type_, FALSE, "InvalidExtensionRef", told)
        if pool.picker and self.named.get(key) not in sites:
            told = f"Service {key} leads to the picker of another listener already; name another one"
            return Said(type_, FALSE, "InvalidExtensionRef", told)
        return Said(type_, TRUE, type_, "all references are known")

    def _picker(self, pool: Pool, site: Site) -> Said:
        key = self.names.site(site)
        status = self.facts.observed.statuses.get(("Deployment", key), {})
        if status.get("availableReplicas", 0) > 0:
            return Said("PickerReady", TRUE, "PickerReady", f"Deployment {key} is available")
        awaited = key in self.facts.observed.awaited
        if awaited:
            meanwhile = "not taken before that, or the longest wait for it is over"
        else:
            meanwhile = "refused" if pool.failure_mode is FailureMode.CLOSE else "placed in turn"
        why = [
            f": {one.get('message')}" for one in status.get("conditions") or [] if one.get("type") == "ReplicaFailure"
        ]
        told = f"no Pod of Deployment {key} is available{''.join(why)}; requests are {meanwhile}"
        if awaited and not why:
            return Said("PickerReady", UNKNOWN, "Pending", told)
        return Said("PickerReady", FALSE, "EndpointPickerNotHealthy", told)


def pools_of(facts: Facts) -> Pools:
    """The facts, sorted by pool."""
    sites: dict[Key, list[Site]] = defaultdict(list)
    named: dict[Key, Site] = {}
    for site in facts.plan.sites:
        for key in site.pools:
            sites[key].append(site)
            if picker := facts.objects.pools[key].picker:
                named.setdefault(Key(key.namespace, picker), site)
    accepted = (one for one in facts.conditions if (one.kind, one.type) == ("InferencePool", ACCEPTED))
    return Pools(
        facts=facts,
        names=names_of(facts.plan.sites),
        sites={key: tuple(found) for key, found in sites.items()},
        planned={(one.key, one.parent): one for one in accepted},
        routes=_routes(facts),
        named=named,
    )


def counted(pool: Pool, facts: Facts) -> tuple[int, int]:
    """How many endpoints the pool has: ready, and all."""
    members = [one for one in facts.objects.members.values() if one.key.namespace == pool.key.namespace]
    found = [(one.ready, len(addresses(pool, one))) for one in members]
    return sum(count for ready, count in found if ready), sum(count for _, count in found)


def _routes(facts: Facts) -> dict[Key, dict[Key, Key]]:
    found: dict[Key, dict[Key, Key]] = defaultdict(dict)
    for route in facts.objects.routes.values():
        backends = (ref for rule in route.rules for ref in rule.backends if ref.kind is BackendKind.POOL)
        for ref in backends:
            found[ref.key] |= {parent.gateway: route.key for parent in route.parents}
    return found


def _backends(pool: Pool, facts: Facts) -> Said:
    ready, total = counted(pool, facts)
    if ready:
        return Said("BackendsAvailable", TRUE, "EndpointsFound", "there are endpoints that are ready")
    labels = ",".join(f"{name}={value}" for name, value in sorted(pool.selector.items()))
    told = f"none of {total} endpoints with the labels {labels} is ready"
    return Said("BackendsAvailable", FALSE, "EndpointsNotFound", told if total else f"no Pod has the labels {labels}")


def _entries(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Routes say it by parent, policies by ancestor."""
    return [*(status.get("parents") or []), *(status.get("ancestors") or [])]


def _refusal(kind: str, condition: Mapping[str, Any]) -> str | None:
    """Our reason, where Envoy Gateway's condition takes something away."""
    if condition.get("type") == "Overridden" and condition.get("status") == TRUE:
        return "Conflicted"
    if condition.get("type") != ACCEPTED or condition.get("status") != FALSE:
        return None
    if kind == "HTTPRoute":
        return "HTTPRouteNotAccepted"
    return "Conflicted" if condition.get("reason") == "Conflicted" else "PolicyNotAccepted"


def _pending(what: str) -> Said:
    return Said(ACCEPTED, UNKNOWN, "Pending", f"waiting for {what}")
