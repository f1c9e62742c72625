"""Pools on one port: who may share it, who is the default, and what is said of models and policies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.objects import Key, Model, Pool
from igw_operator.plan.build import build_plan
from igw_operator.plan.sharing import share
from igw_testing.gateway_texts import gateway, model, pool
from igw_testing.plans import names, objects_of, plan_of, planned, routes, said

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def test_pools_with_models_of_their_own_share_a_port() -> None:
    """Each is reached by what the picker finds in the body; the oldest takes what says nothing."""
    plan = plan_of(gateway(80), pool("a", 80), pool("b", 80), model("m-a", "a"), model("m-b", "b"))
    (site,) = plan.sites
    assert site.pools == (Key("default", "a"), Key("default", "b"))
    assert [(str(route.owner), route.chosen) for route in routes(plan, 80)] == [
        ("default/b", Key("default", "b")),
        ("default/a", None),
    ]


def test_the_pool_without_models_is_the_default_whatever_its_age() -> None:
    """It serves every other name, and also what names nothing."""
    texts = (gateway(80), pool("a", 80), pool("z", 80), model("m-a", "a"))
    assert [pool.name for pool in plan_of(*texts).sites[0].pools] == ["z", "a"]
    assert names(routes(plan_of(*texts), 80)) == ["a", "z"]


def test_a_pool_whose_every_model_is_older_elsewhere_is_refused_and_healed_by_a_name_of_its_own() -> None:
    """It would get no request, and must not become the one that takes everything."""
    texts = (gateway(80), pool("a", 80), pool("b", 80), model("m", "a"), model("n", "b", served="m"))
    assert ("b", "Accepted", "Conflicted") in said(*texts)
    assert ("n", "Accepted", "ModelNameInUse") in said(*texts)
    assert said(*texts, model("own", "b")) == {
        ("n", "Accepted", "ModelNameInUse"),
        ("a", "BackendsAvailable", "EndpointsNotFound"),
        ("b", "BackendsAvailable", "EndpointsNotFound"),
    }


@pytest.mark.parametrize(("first", "second", "loser"), [(OLD, NEW, "n"), (NEW, OLD, "m")])
def test_the_older_model_object_has_the_name_on_a_shared_port(first: str, second: str, loser: str) -> None:
    """Whichever pool is older."""
    texts = (
        *(gateway(80), pool("a", 80), pool("b", 80), model("own-a", "a"), model("own-b", "b")),
        model("m", "a", served="same", creationTimestamp=first),
        model("n", "b", served="same", creationTimestamp=second),
    )
    assert {one for one in said(*texts) if one[2] == "ModelNameInUse"} == {(loser, "Accepted", "ModelNameInUse")}


def test_models_of_one_name_on_different_ports_do_not_meet() -> None:
    """Names are unique per port only."""
    texts = (gateway(80, 81), pool("a", 80), pool("b", 81), model("m", "a", served="x"), model("n", "b", served="x"))
    assert not [one for one in said(*texts) if one[1] == "Accepted"]


def test_a_gateway_of_another_controller_is_not_ours_to_attach_to() -> None:
    """Said with its class, since a mistake there looks like ours."""
    kind = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: igw}\n"
    texts = (gateway(80), pool("a", 80), kind + "spec: {controllerName: example.com/other}")
    plan, conditions = build_plan(objects_of(*texts), controller="example.com/ours")
    assert plan.sites == ()
    (refused,) = [one for one in conditions if one.type == "Accepted"]
    assert (refused.reason, refused.parent) == ("NotSupportedByParent", Key("default", "gw"))
    plan, _ = build_plan(objects_of(*texts), controller="example.com/other")
    assert len(plan.sites) == 1


def test_every_condition_about_a_gateway_names_it() -> None:
    """Pools have a status per Gateway."""
    _, conditions = planned(gateway(80), pool("a", 80), pool("b", 81))
    found = {one.key.name: one.parent for one in conditions if one.type == "Accepted"}
    assert found == {"a": Key("default", "gw"), "b": Key("default", "gw")}


POOLS = st.integers(0, 3).map(lambda number: Key("ns", f"p{number}"))
MODELS = st.builds(
    lambda number, pool, name, created: Model(Key("ns", f"m{number}"), pool, name, created=created),
    st.integers(0, 9),
    POOLS,
    st.sampled_from("xyz"),
    st.sampled_from([0.0, 1.0, 2.0]),
)


@given(
    pools=st.lists(st.tuples(POOLS, st.sampled_from([0.0, 1.0])), unique_by=lambda one: one[0]),
    models=st.lists(MODELS, unique_by=lambda one: one.key),
)
def test_sharing_leaves_each_name_one_pool_and_does_not_depend_on_the_order(
    pools: list[tuple[Key, float]], models: list[Model]
) -> None:
    """Whoever wants the port either has it or is told why not; at most one pool has no models, and it is first."""
    wanting = [Pool(key, {"app": "x"}, (80,), created=created) for key, created in pools]
    sharing = share(wanting, models)
    assert set(sharing.pools) | set(sharing.refused) == {pool.key for pool in wanting}
    assert not set(sharing.pools) & set(sharing.refused)
    served = [one for one in models if one.pool in sharing.pools and one.key not in sharing.losers]
    assert len({one.name for one in served}) == len(served)
    general = [key for key in sharing.pools if not any(one.pool == key for one in models)]
    assert general == list(sharing.pools[: len(general)]) and len(general) <= 1
    assert {one.pool for one in served} | set(general) == set(sharing.pools), "no pool is there for nothing"
    shuffled = [wanting[::-1], wanting[1:] + wanting[:1]]
    assert all(share(other, models[::-1]) == sharing for other in shuffled)
