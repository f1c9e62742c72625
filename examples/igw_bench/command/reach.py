"""Whether a target is there, lets us in, and has the model: asked before any load. Called by `cli`."""

from dataclasses import replace

import aiohttp

from igw_bench.command.client import Target, reason
from igw_bench.command.samples import BadInput


async def with_model(target: Target) -> Target:
    """The target, once it has said that it is there and knows the model. BadInput."""
    models = await _models(target)
    if not target.model:
        if models is None or len(models) != 1:
            known = "it does not say which it has" if models is None else f"it has {', '.join(models) or 'none'}"
            raise BadInput(f"--model is required: {known}")
        target = replace(target, model=models[0])
    elif models is not None and target.model not in models:
        raise BadInput(f"--model {target.model}: unknown to {target.url}; it has {', '.join(models) or 'none'}")
    return target


async def _models(target: Target) -> list[str] | None:
    """The models that it lists; None if it has no list. BadInput if it is not there or refuses us."""
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=target.headers) as session,
            session.get(f"{target.url}/models") as response,
        ):
            if response.status in (401, 403):
                raise BadInput(f"--url {target.url}: HTTP {response.status}: see --api-key-env and --api-key-file")
            if response.status != 200:
                return None
            return [str(one["id"]) for one in (await response.json(content_type=None))["data"]]
    except aiohttp.ClientConnectorError as error:
        raise BadInput(f"--url {target.url}: not reachable: {reason(error)}") from None
    except TimeoutError:
        raise BadInput(f"--url {target.url}: no answer within 30 s") from None
    except aiohttp.ClientError as error:
        raise BadInput(f"--url {target.url}: {type(error).__name__}") from None
    except (ValueError, KeyError, TypeError):
        return None
