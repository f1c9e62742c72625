"""From the store to what the plan is made of: our kinds parsed, Gateways and endpoints as the cluster has them.

No I/O. What users write for us is read as strictly as in standalone mode, and an object that is not valid keeps its
last good version, also over a restart: then it comes from the ConfigMaps that pickers serve. Gateways, routes and
Services belong to others and were checked by the API server, so that only what matters here is read of them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from igw_api import wire
from igw_api.manifests import Manifest, ParseResult, collect, keep_last_good, parse_data
from igw_api.meta import K8S_GROUP, X_K8S_GROUP, seconds_since_epoch
from igw_api.objects import (
    AnyObject,
    BackendKind,
    BackendRef,
    Gateway,
    GatewayClass,
    Key,
    Listener,
    Member,
    Model,
    Objective,
    Policy,
    Pool,
    Rewrite,
    Route,
    RouteParent,
    RouteRule,
)
from igw_api.objectset import NotADump, ObjectSet, load
from igw_operator.controller.resources import (
    CONFIG_MAP,
    DECLARED,
    GATEWAY,
    GATEWAY_CLASS,
    ROUTE,
    SERVICE,
    SLICE,
    Resource,
)
from igw_operator.controller.store import Body, View, is_ours, key_of
from igw_operator.render.envoy_gateway.names import label

_KINDS: Final[Mapping[type, str]] = {
    Pool: "InferencePool",
    Model: "InferenceModel",
    Objective: "InferenceObjective",
    Rewrite: "InferenceModelRewrite",
    Policy: "InferencePoolPolicy",
}
_HTTP: Final = frozenset({"HTTP", "HTTPS"})

Subject = tuple[Resource, Key]  # one object as its user wrote it


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is declared. `mistakes`: of each object that is not valid, what is wrong, a line each."""

    objects: ObjectSet = field(default_factory=ObjectSet)
    mistakes: Mapping[Subject, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Reader:
    """Reads views again and again; an object that did not change is not parsed anew."""

    _parsed: dict[str, tuple[str, ParseResult]] = field(default_factory=dict, init=False)
    _results: Mapping[str, ParseResult] | None = field(default=None, init=False)

    def read(self, view: View) -> Inventory:
        """What the view says."""
        subjects: dict[str, Subject] = {}
        new: dict[str, ParseResult] = {}
        for resource, body in _declared(view):
            key = key_of(body)
            source = f"{resource.name}/{key}"
            subjects[source] = resource, key
            new[source] = self._parse(source, resource, body)
        self._parsed = {source: self._parsed[source] for source in new}
        previous = self._results if self._results is not None else _served(view)
        self._results = keep_last_good(previous, new)
        declared, problems = collect(self._results)
        mistakes: dict[Subject, list[str]] = defaultdict(list)
        for problem in problems:
            text = f"{problem.path}: {problem.message}" if problem.path else problem.message
            mistakes[subjects[problem.source]].append(text)
        surroundings = [*_gateways(view), *_members(view, declared.pools), *_routes(view)]
        objects = declared.merge(ObjectSet.of(surroundings))
        return Inventory(objects, {subject: tuple(texts) for subject, texts in mistakes.items()})

    def _parse(self, source: str, resource: Resource, body: Body) -> ParseResult:
        version = body["metadata"].get("resourceVersion", "")
        known = self._parsed.get(source)
        if known is None or known[0] != version:
            typed = {**body, "apiVersion": resource.api_version, "kind": resource.kind}
            known = self._parsed[source] = (version, parse_data(typed, source))
        return known[1]


def _declared(view: View) -> Iterator[tuple[Resource, Body]]:
    for resource in DECLARED:
        for _, body in sorted(view.of(resource).items()):
            if "deletionTimestamp" not in body["metadata"]:
                yield resource, body


def _served(view: View) -> dict[str, ParseResult]:
    """What pickers serve, as results to fall back on after a restart."""
    found: dict[str, ParseResult] = {}
    for key, body in view.of(CONFIG_MAP).items():
        text = (body.get("data") or {}).get(wire.OBJECTS_KEY)
        if text is None or not is_ours(body):
            continue
        source = f"{CONFIG_MAP.name}/{key}"
        try:
            objects = load(text.encode()).objects()
        except NotADump:
            continue  # of another version of the operator; nothing is lost but the memory of bad edits
        manifests = (Manifest(_KINDS[type(one)], one.key, source, 1, (one,)) for one in objects if type(one) in _KINDS)
        found[source] = ParseResult(tuple(manifests))
    return found


def _gateways(view: View) -> Iterator[AnyObject]:
    """All of them, whoever serves them: the plan tells pools on others' Gateways why nothing comes of it."""
    for key, body in view.of(GATEWAY_CLASS).items():
        yield GatewayClass(key, body["spec"]["controllerName"], _created(body))
    for key, body in view.of(GATEWAY).items():
        name = body["spec"]["gatewayClassName"]
        if "deletionTimestamp" not in body["metadata"]:
            listeners = (_listener(one) for one in body["spec"].get("listeners", []) if one["protocol"] in _HTTP)
            yield Gateway(key, name, tuple(listeners), _created(body))


def _listener(spec: Mapping[str, Any]) -> Listener:
    allowed = spec.get("allowedRoutes", {}).get("namespaces", {}).get("from", "Same")
    # With a selector only the gateway's own controller can tell; it does so in the route's status.
    return Listener(spec["name"], spec["port"], spec.get("hostname"), any_namespace=allowed in ("All", "Selector"))


def _members(view: View, pools: Mapping[Key, Pool]) -> Iterator[Member]:
    """The endpoints behind our Services for pools, by what the EndpointSlice controller says of them."""
    labelled = {(label(key.namespace), label(key.name)): pool for key, pool in pools.items()}
    found: dict[Key, Member] = {}
    for key, body in view.of(SLICE).items():
        labels = body["metadata"].get("labels") or {}
        pool = labelled.get((labels.get(wire.POOL_NAMESPACE_LABEL, ""), labels.get(wire.POOL_LABEL, "")))
        service = view.get(SERVICE, Key(key.namespace, labels.get("kubernetes.io/service-name", "")))
        if pool is None or service is None or service.get("spec", {}).get("selector") != dict(pool.selector):
            continue
        for endpoint in body.get("endpoints") or []:
            member = _member(pool, endpoint)
            before = found.get(member.key)
            found[member.key] = replace(member, labels={**before.labels, **member.labels}) if before else member
    yield from found.values()


def _member(pool: Pool, endpoint: Mapping[str, Any]) -> Member:
    address = endpoint["addresses"][0]
    name = (endpoint.get("targetRef") or {}).get("name", address)
    ready = (endpoint.get("conditions") or {}).get("ready", True)
    return Member(Key(pool.key.namespace, name), address, labels=pool.selector, ready=ready is not False)


def _routes(view: View) -> Iterator[Route]:
    """Users' routes that name InferencePools, with nothing but those references."""
    for key, body in view.of(ROUTE).items():
        rules = body.get("spec", {}).get("rules") or []
        backends = tuple(ref for rule in rules for one in rule.get("backendRefs") or [] if (ref := _pool_ref(key, one)))
        if backends and not is_ours(body):
            parents = tuple(_parent(key, one) for one in body["spec"].get("parentRefs") or [])
            yield Route(key, parents, (RouteRule(backends=backends),), created=_created(body))


def _pool_ref(route: Key, ref: Mapping[str, Any]) -> BackendRef | None:
    if ref.get("kind") != "InferencePool" or ref.get("group") not in (K8S_GROUP, X_K8S_GROUP):
        return None
    return BackendRef(BackendKind.POOL, Key(ref.get("namespace") or route.namespace, ref["name"]))


def _parent(route: Key, ref: Mapping[str, Any]) -> RouteParent:
    gateway = Key(ref.get("namespace") or route.namespace, ref["name"])
    return RouteParent(gateway, ref.get("sectionName"), ref.get("port"))


def _created(body: Body) -> float:
    return seconds_since_epoch(body["metadata"].get("creationTimestamp")) or 0.0
