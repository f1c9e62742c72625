"""Pools that want the same port: which may have it together, and who is the default. Pure.

The model that a request names tells whose it is. So of pools without models, which serve any, there can be one; and a
pool whose every model is an older one's would get no request. Tokens are asked for before the model is known, so all
have the same, or those of their Gateway.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from igw_api.objects import Key, Model, Policy, Pool
from igw_api.resolution import age, shared_models, winning_access


@dataclass(frozen=True, slots=True)
class Sharing:
    """`pools`: those that have the port, the default first, then by age. `refused`: whom it leads to instead."""

    pools: tuple[Key, ...]
    refused: Mapping[Key, str]
    losers: Mapping[Key, Model]  # by model object, the older one that has its name


def share(wanting: Iterable[Pool], models: Iterable[Model], policies: Collection[Policy] = ()) -> Sharing:
    """Who of `wanting` gets the port. The order of the arguments does not matter."""
    pools = sorted(wanting, key=age)
    keys = [pool.key for pool in pools]
    found = [model for model in models if model.pool in keys]
    names = shared_models(keys, found)
    winning = {model.pool for model in names.winners.values()}
    with_models = {model.pool for model in found}
    general = [key for key in keys if key not in with_models]
    first = ", ".join(map(str, general[:1]))
    refused = dict.fromkeys(general[1:], f"leads to InferencePool {first} already")
    refused |= {
        key: f"leads to older InferenceModels for all its names: {_holders(key, found, names.losers)}"
        for key in keys
        if key in with_models - winning
    }
    kept = sorted((key for key in keys if key not in refused), key=lambda key: key not in general)
    tokens = {key: winning_access(key, policies) for key in kept}
    others = [key for key in kept if tokens[key] != tokens[kept[0]]]
    refused |= dict.fromkeys(others, f"leads to InferencePool {kept[0]}, which has other tokens" if others else "")
    return Sharing(tuple(key for key in kept if key not in others), refused, names.losers)


def _holders(pool: Key, models: Iterable[Model], losers: Mapping[Key, Model]) -> str:
    own = (model for model in models if model.pool == pool)
    return ", ".join(f"{model.name} is {losers[model.key].key}'s" for model in sorted(own, key=age))
