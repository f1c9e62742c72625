"""The bodies of the two halves of a request. Pure: JSON objects in, JSON objects out; what is given is not changed.

Field names are vLLM's (NixlConnector's `kv_transfer_params`) and SGLang's (`bootstrap_*`); `docs/prefill-decode.md` has
their sources.
"""

from collections.abc import Mapping
from typing import Any

from igw_sidecar.prefillers import Prefiller

Body = Mapping[str, Any]

_PARAMS = "kv_transfer_params"
# What the prefill is asked for: the KV stays for another engine, of which nothing is known yet.
_ASK: Body = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
# They make no sense for one token that nobody reads, and engines refuse some of them then.
_NOT_FOR_PREFILL = ("stream_options", "min_tokens", "min_completion_tokens")
# Rooms are 63 bits wide.
ROOMS = 2**63


def splittable(body: Body) -> bool:
    """Whether one prefill and one transfer serve it all: one prompt, one reply, and nothing told about the prompt."""
    if any(body.get(name) not in (None, 1) for name in ("n", "best_of")) or body.get("use_beam_search"):
        return False
    if body.get("echo") or body.get("prompt_logprobs") is not None:
        return False
    prompt = body.get("prompt")
    # A list is token ids, or several prompts.
    return not isinstance(prompt, list) or all(isinstance(token, int) for token in prompt)


def vllm_prefill(body: Body) -> dict[str, Any]:
    """The request that computes the prompt: the same, one token long, in one piece."""
    half = {name: value for name, value in body.items() if name not in _NOT_FOR_PREFILL}
    half |= {"max_tokens": 1, "stream": False, _PARAMS: _ASK}
    if "max_completion_tokens" in half:
        half["max_completion_tokens"] = 1
    return half


def vllm_decode(body: Body, prefilled: object) -> dict[str, Any] | None:
    """The request that decodes, given the prefill's answer; None if that does not say where the KV is."""
    params = prefilled.get(_PARAMS) if isinstance(prefilled, dict) else None
    if not isinstance(params, dict) or not params:
        return None
    return {**body, _PARAMS: params}


def sglang(body: Body, prefiller: Prefiller, bootstrap_port: int, room: int) -> dict[str, Any]:
    """The request for both engines, which meet in `room`. Port 0: that of the prefiller itself."""
    return {
        **body,
        "bootstrap_host": prefiller.bracketed,
        "bootstrap_port": bootstrap_port or prefiller.port,
        "bootstrap_room": room,
    }
