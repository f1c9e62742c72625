"""The whole plan as Kubernetes objects, in the order to apply them. Pure.

Called by the reconciler, which compares them with what exists. Equal inputs give equal objects.
"""

from collections.abc import Iterator

from igw_api.objects import AnyObject
from igw_api.objectset import ObjectSet
from igw_api.resolution import splits
from igw_operator.plan.model import GatewayPlan, Resilience, Site
from igw_operator.plan.standbys import only_led_to
from igw_operator.render.envoy_gateway.access import security_policy
from igw_operator.render.envoy_gateway.listener import listener_objects
from igw_operator.render.envoy_gateway.names import Names, names_of
from igw_operator.render.envoy_gateway.picker import cannot_be_asked, picker_objects
from igw_operator.render.envoy_gateway.pool import extension_objects, lead, pool_objects
from igw_operator.render.envoy_gateway.standby import standby_objects, usable
from igw_operator.render.envoy_gateway.values import Identity, Observed, Options, Rendered


def render(plan: GatewayPlan, objects: ObjectSet, observed: Observed, options: Options) -> tuple[Rendered, ...]:
    """Every object that the plan implies, lower phases first, each once.

    Names that are somebody else's are not rendered: what is theirs is left alone, and said in the status.
    """
    names = names_of(plan.sites)
    found: dict[Identity, Rendered] = {}
    for one in _all(plan, objects, names, observed, options):
        # Two pools may name one Service as their picker: the first is the older.
        found.setdefault(one.identity, one)
    ours = (one for identity, one in found.items() if identity not in observed.foreign)
    return tuple(sorted(ours, key=lambda one: one.phase))


def _all(
    plan: GatewayPlan, objects: ObjectSet, names: Names, observed: Observed, options: Options
) -> Iterator[Rendered]:
    divisions = splits(objects.policies.values())
    treatments = {cluster.name: cluster.resilience for cluster in plan.clusters}
    for site in plan.sites:
        yield from picker_objects(site, served(site, objects, names, observed, options), names, observed, options)
        yield from listener_objects(site, plan, names, observed, options)
        early = cannot_be_asked(site, names, observed)
        for key in site.pools:
            pool = objects.pools[key]
            resilience = treatments.get(f"pool/{key}", Resilience())
            split = divisions.get(key)
            made = pool_objects(site, pool, plan, names, resilience=resilience, split=split, early=early)
            policy = security_policy(site, key, plan.guards, names)
            # Without its tokens nothing may lead to a pool. Whose name is in the way, the status says.
            open_to_all = policy is not None and ("SecurityPolicy", policy) in observed.foreign
            yield from (one for one in made if not open_to_all or one.identity[0] != "HTTPRoute")
            yield from extension_objects(site, pool, names, observed)
        yield from standby_objects(site, objects, plan, names, options, early=early)


def served(site: Site, objects: ObjectSet, names: Names, observed: Observed, options: Options) -> ObjectSet:
    """What the site's picker must know: its pools and all that is about them, and where routes lead. No endpoints."""
    pools = frozenset(site.pools)
    policies = only_led_to(objects, usable(site, objects, observed, options))
    kept: list[AnyObject] = [
        *(objects.pools[key] for key in site.pools),
        *(one for one in objects.models.values() if one.pool in pools),
        *(one for one in objects.objectives.values() if one.pool in pools),
        *(one for one in objects.rewrites.values() if one.pool in pools),
        *(one for one in policies.values() if site.gateway in one.gateways or pools & set(one.pools)),
    ]
    route, where = lead(site, objects.pools[site.pools[0]], names)
    return ObjectSet.of(kept, {route: where})
