"""What is served after objects came, changed or went; which pool a route leads to; what a model's name stands for."""

import random
from collections import Counter

import pytest

from igw_api.objects import AnyObject, Model
from igw_api.objectset import ObjectSet
from igw_extproc.datastore import Datastore, PoolView, Resolved
from igw_extproc.errors import NoEndpoints, UnknownModel
from igw_testing.builders import address, key, member, members, model, objective, policy, pool, rewrite, rule


def serving(*objects: AnyObject) -> Datastore:
    """A datastore that serves these."""
    made = Datastore("prefix-cache", lambda: 0.0)
    made.replace(ObjectSet.of(objects))
    return made


def view(*objects: AnyObject) -> PoolView:
    """The only pool's view."""
    (one,) = serving(pool(), *objects).views.values()
    return one


def resolve(
    here: PoolView, model: str | None, rewrite: str | None = None, objective: str | None = None, seed: int = 0
) -> Resolved:
    """What the pool makes of the model's name."""
    return here.resolve(model, rewrite, objective, random.Random(seed))


# ------------------------------------------------------------------------------------------------ pools and endpoints


def test_a_route_leads_to_the_pool_of_its_name() -> None:
    here = serving(pool("a"), pool("b"), pool("a", namespace="other"))
    assert [here.route(name).pool_for("any").name for name in ("default/a", "other/a")] == ["default/a", "other/a"]


@pytest.mark.parametrize("route", [None, "", "httproute/default/llm/rule/0", "default/llm"])
def test_the_only_pool_takes_every_route(route: str | None) -> None:
    """Other gateways name their routes as they like."""
    assert serving(pool()).route(route).pool_for("any").name == "default/llm"


@pytest.mark.parametrize(("route", "told"), [("else", "route `else`"), (None, "names no pool"), ("", "names no pool")])
def test_with_several_pools_a_route_must_name_one(route: str | None, told: str) -> None:
    with pytest.raises(NoEndpoints, match=told):
        serving(pool("a"), pool("b")).route(route)


def test_without_a_pool_nothing_is_served() -> None:
    with pytest.raises(NoEndpoints, match="no pool"):
        serving().route("default/llm")


def test_a_pools_endpoints_are_the_ready_members_it_selects_on_each_of_its_ports() -> None:
    here = serving(
        pool(ports=(8000, 8001)),
        member(1),
        member(2, ready=False),
        member(3, pool="another"),
        member(4, namespace="other"),
    )
    assert [one.address for one in here.endpoints()] == ["10.0.0.1:8000", "10.0.0.1:8001"]


def test_an_endpoint_of_two_pools_is_scraped_once() -> None:
    """Its load is one, whichever pool sent it."""
    first, second = pool("llm"), pool("also")
    both = serving(first, type(second)(second.key, first.selector, first.target_ports), *members(2))
    assert [len(one.endpoints) for one in both.views.values()] == [2, 2]
    assert [one.address for one in both.endpoints()] == [address(1), address(2)]


def test_a_new_set_of_objects_replaces_the_old_one_whole_and_everybody_is_told() -> None:
    here = Datastore("prefix-cache", lambda: 0.0)
    told: list[int] = []
    here.subscribe(lambda: told.append(len(here.endpoints())))
    assert not here.synced
    here.replace(ObjectSet.of([pool(), *members(2)]))
    here.replace(ObjectSet.of([pool()]))
    here.replace(ObjectSet.of([]))
    assert (told, here.synced, list(here.views)) == ([2, 0, 0], True, [])


# ------------------------------------------------------------------------------------------------ who wins


def test_the_oldest_policy_of_a_pool_counts_and_without_one_the_default() -> None:
    old, new = policy("random", name="z", created=1.0), policy("least-token", name="a", created=2.0)
    assert view(new, old).policy == "random"
    assert view(policy("random", "another")).policy == "prefix-cache"
    assert view(type(old)(old.key, old.pools, None)).policy == "prefix-cache"


def test_the_oldest_object_has_the_models_name() -> None:
    old = model("m", object_name="z", priority=2, created=1.0)
    new = model("m", object_name="a", priority=-1, created=2.0)
    here = view(new, old)
    assert resolve(here, "m").priority == 2
    assert here.models == {"m": old}


def test_models_objectives_and_rewrites_belong_to_their_own_pool() -> None:
    elsewhere: list[AnyObject] = [
        model("m", pool="b"),
        objective("urgent", 5, pool="b"),
        rewrite("r", rule(x=1), pool="b"),
    ]
    here = serving(pool("a"), pool("b"), *elsewhere).views["default/a"]
    assert resolve(here, "m", objective="urgent") == Resolved("m", 0)


# ------------------------------------------------------------------------------------------------ models


def test_without_declared_models_every_name_is_passed_on() -> None:
    assert resolve(view(), "anything") == Resolved("anything", 0)
    assert resolve(view(), None) == Resolved(None, 0)


def test_a_declared_model_without_targets_stands_for_itself() -> None:
    assert resolve(view(model("m", priority=2)), "m") == Resolved("m", 2)


def test_an_undeclared_model_is_unknown_and_the_client_is_told_the_others() -> None:
    with pytest.raises(UnknownModel, match=r"`gpt-9` is not served here\. Models: `a`, `b`\."):
        resolve(view(model("b"), model("a")), "gpt-9")


def test_a_request_without_a_model_passes_where_models_are_declared() -> None:
    """A path that we cannot read, or a body whose model was cut off."""
    assert resolve(view(model("m", priority=2, t=1)), None) == Resolved(None, 0)


@pytest.mark.parametrize("reserved", [model("reserved", t=0), model("reserved", t=0, u=0)])
def test_a_name_whose_targets_all_weigh_nothing_is_reserved(reserved: Model) -> None:
    here = view(reserved, model("served"))
    with pytest.raises(UnknownModel, match=r"Models: `served`\."):
        resolve(here, "reserved")


def test_where_all_names_are_reserved_none_is_offered() -> None:
    with pytest.raises(UnknownModel, match=r"Models: none\."):
        resolve(view(model("reserved", t=0)), "reserved")


def test_targets_get_shares_by_weight_and_none_without_one() -> None:
    here = view(model("m", stable=90, canary=10, off=0))
    rng = random.Random(42)
    count = Counter(here.resolve("m", None, None, rng).target for _ in range(2000))
    assert set(count) == {"stable", "canary"}
    assert 150 < count["canary"] < 250, "10 % of 2000, and six standard deviations"


def test_another_name_than_the_clients_may_be_an_adapters() -> None:
    assert resolve(view(model("m", adapter=1)), "m") == Resolved("adapter", 0, "adapter")
    assert resolve(view(rewrite("r", rule("m", adapter=1))), "m") == Resolved("adapter", 0, "adapter")
    assert resolve(view(model("m", m=1)), "m").adapter is None


@pytest.mark.parametrize(("models", "only"), [([], None), (["a"], "a"), (["a", "b"], None)])
def test_a_pool_has_an_only_model_if_it_declares_one(models: list[str], only: str | None) -> None:
    assert view(*(model(name) for name in models)).only_model == only


# ------------------------------------------------------------------------------------------------ rewrites


def test_an_exact_rule_goes_before_a_generic_one_whichever_is_older() -> None:
    generic = rewrite("generic", rule(everything=1), created=1.0)
    exact = rewrite("exact", rule("a", "b", special=1), created=2.0)
    here = view(generic, exact)
    assert [resolve(here, name).target for name in ("a", "b", "c")] == ["special", "special", "everything"]


def test_a_rule_goes_before_the_models_targets_and_before_the_header() -> None:
    here = view(model("m", priority=2, own=1), rewrite("r", rule("m", ruled=1)))
    assert resolve(here, "m", rewrite="header") == Resolved("ruled", 2, "ruled")


def test_the_header_renames_where_no_rule_does() -> None:
    here = view(rewrite("r", rule("other", ruled=1)))
    assert resolve(here, "m", rewrite="header").target == "header"
    assert resolve(here, "m", rewrite="").target == "m"
    assert resolve(here, None, rewrite="header").target == "header"


def test_rules_have_weighted_targets_too() -> None:
    here = view(rewrite("r", rule(a=1, b=1)))
    assert {resolve(here, "m", seed=seed).target for seed in range(20)} == {"a", "b"}


# ------------------------------------------------------------------------------------------------ priorities


@pytest.mark.parametrize(
    ("objective_name", "priority"), [(None, 2), ("urgent", 7), ("background", -1), ("unknown", 2), ("", 2)]
)
def test_an_objective_that_exists_goes_before_the_models_priority(objective_name: str | None, priority: int) -> None:
    here = view(model("m", priority=2), objective("urgent", 7), objective("background", -1))
    assert resolve(here, "m", objective=objective_name).priority == priority


def test_models_are_kept_under_the_names_that_clients_use() -> None:
    here = view(Model(key("object-name"), key("llm"), "Client/Name:v1"))
    assert resolve(here, "Client/Name:v1").target == "Client/Name:v1"
    with pytest.raises(UnknownModel):
        resolve(here, "object-name")


@pytest.mark.parametrize("name", ["secret", "", "soon"])
def test_the_rewrite_header_leads_past_no_list_of_models(name: str) -> None:
    """A pool that declares models serves those, and what they lead to, whatever a client names."""
    here = view(model("m", tuned=1, off=0), model("n"), model("soon", never=0))
    assert [resolve(here, "m", target).target for target in ("tuned", "n", "m")] == ["tuned", "n", "m"]
    if name:
        with pytest.raises(UnknownModel):
            resolve(here, "m", name)
    assert resolve(view(), "m", "anything").target == "anything"
