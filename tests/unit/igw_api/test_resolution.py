"""Who wins where objects contradict each other."""

from hypothesis import given
from hypothesis import strategies as st

from igw_api.objects import AttachTo, Key, Model, Policy, Pool, Rewrite, RewriteRule, Target
from igw_api.resolution import rule_for, rules_in_order, splits, winning_models, winning_policy, winning_pools
from igw_api.split import Split

POOL = Key("default", "pool")
OTHER = Key("default", "other")


def model(name: str, *, serves: str = "llama", created: float = 0.0, pool: Key = POOL) -> Model:
    return Model(Key("default", name), pool, serves, created=created)


def rule(target: str, *models: str) -> RewriteRule:
    return RewriteRule(frozenset(models), (Target(target, 1),))


def rewrite(name: str, *rules: RewriteRule, created: float = 0.0, pool: Key = POOL) -> Rewrite:
    return Rewrite(Key("default", name), pool, rules, created)


def target_of(asked: str, *rewrites: Rewrite) -> str | None:
    found = rule_for(asked, rules_in_order(POOL, rewrites))
    return found.targets[0].name if found else None


def test_the_oldest_model_has_the_name_and_the_loser_learns_who_has_it() -> None:
    old, young = model("z", created=1.0), model("a", created=2.0)
    found = winning_models(POOL, [young, old, model("elsewhere", pool=OTHER, created=0.5)])
    assert found.winners == {"llama": old}
    assert found.losers == {young.key: old}


def test_models_of_the_same_age_are_ordered_by_name() -> None:
    assert winning_models(POOL, [model("b"), model("a")]).winners["llama"].key.name == "a"


ANY_MODEL = st.builds(model, st.sampled_from("abcd"), serves=st.sampled_from("xy"), created=st.sampled_from([0.0, 1.0]))


@given(st.lists(ANY_MODEL, unique_by=lambda one: one.key))
def test_each_name_has_one_winner_whatever_the_order(models: list[Model]) -> None:
    found = winning_models(POOL, models)
    assert winning_models(POOL, models[::-1]) == found
    assert {one.name for one in models} == set(found.winners)
    assert len(found.winners) + len(found.losers) == len(models)


def test_the_oldest_pool_has_the_listener() -> None:
    listener = AttachTo(Key("default", "gw"), 8081)
    old = Pool(Key("default", "z"), {"a": "b"}, (1,), attach_to=listener, created=1.0)
    young = Pool(Key("default", "a"), {"a": "b"}, (1,), attach_to=listener, created=2.0)
    unattached = Pool(Key("default", "b"), {"a": "b"}, (1,))
    found = winning_pools([young, unattached, old])
    assert (found.winners, found.losers) == ({listener: old}, {young.key: old})


def test_exact_rules_go_before_generic_ones_even_of_older_objects() -> None:
    generic = rewrite("old", rule("generic"), created=1.0)
    exact = rewrite("young", rule("exact", "llama"), created=2.0)
    assert target_of("llama", exact, generic) == "exact"
    assert target_of("other", exact, generic) == "generic"


def test_among_exact_rules_the_oldest_objects_first_rule_applies() -> None:
    old = rewrite("old", rule("first", "llama"), rule("second", "llama"), created=1.0)
    young = rewrite("young", rule("third", "llama"), created=2.0)
    assert target_of("llama", young, old) == "first"


def test_without_a_matching_rule_nothing_applies() -> None:
    assert target_of("llama", rewrite("a", rule("x", "other")), rewrite("b", rule("y"), pool=OTHER)) is None


def test_the_oldest_policy_that_targets_the_pool_applies() -> None:
    policies = [
        Policy(Key("default", "young"), (POOL, OTHER), "random", created=2.0),
        Policy(Key("default", "old"), (POOL,), "least-request", created=1.0),
    ]
    assert winning_policy(POOL, policies) == policies[1]
    assert winning_policy(OTHER, policies) == policies[0]
    assert winning_policy(Key("default", "third"), policies) is None


def test_a_pool_is_divided_if_the_policy_that_applies_says_so() -> None:
    """Not if a younger one does."""
    division = Split(dynamic=True)
    young = Policy(Key("default", "young"), (POOL, OTHER), "dynamic-pd-split", 2.0, split=division)
    old = Policy(Key("default", "old"), (POOL,), "random", 1.0)
    assert splits([young, old]) == {OTHER: division}
    assert splits([old]) == {}
