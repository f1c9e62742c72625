"""What a request body says about a prompt computed in one engine and decoded in another.

vLLM (NixlConnector) says it in `kv_transfer_params`, and either engine may play either part. SGLang gives both halves
the same `bootstrap_host`, `bootstrap_port` and `bootstrap_room`, and the engine's mode tells which half it is. An
engine for both, which SGLang does not have, computes the prompt if the bootstrap address is its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from igw_sim.calls import ApiError
from igw_sim.model import Request

ROLES = ("both", "prefill", "decode")
# What `do_remote_prefill` needs beside it; without all of them vLLM warns, and computes the prompt itself.
_SOURCE = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port")


@dataclass(frozen=True, slots=True)
class Split:
    """One half of a split request. `host` and `port` are the other engine's, for the half that fetches."""

    key: str
    keeps: bool
    # SGLang: the halves meet in a room before the prompt is computed. Otherwise the KV is kept until fetched.
    room: bool = False
    host: str = ""
    port: int = 0

    def half(self, request: Request) -> Request:
        """What the engine is to do of the request. An engine that only prefills gives one token, whatever is asked."""
        if not self.keeps:
            return replace(request, remote_kv=True)
        return replace(request, keep_kv=True, output_tokens=1 if self.room else request.output_tokens)


def parse(
    fields: Mapping[str, Any], request_id: str, dialect: str, role: str, address: tuple[str, int]
) -> Split | None:
    """The half that these fields ask of the engine at `address`. ApiError 400 for what the engine would refuse."""
    if dialect == "sglang":
        return _room(fields, role, address)
    params = fields.get("kv_transfer_params")
    if not params:
        return None
    if not isinstance(params, dict):
        raise ApiError(400, "kv_transfer_params must be an object", param="kv_transfer_params")
    if params.get("do_remote_decode"):
        return Split(request_id, keeps=True)
    if not params.get("do_remote_prefill") or not params.get("remote_block_ids"):
        return None
    if any(params.get(name) is None for name in _SOURCE):
        return None
    return Split(
        str(params["remote_request_id"]), keeps=False, host=str(params["remote_host"]), port=int(params["remote_port"])
    )


def _room(fields: Mapping[str, Any], role: str, address: tuple[str, int]) -> Split | None:
    room, host, port = (fields.get(f"bootstrap_{name}") for name in ("room", "host", "port"))
    if room is None and role == "both":
        return None
    if room is None:
        raise ApiError(400, "Invalid request: Disaggregated request received without bootstrap room id")
    if role == "prefill" or (role == "both" and (host, port) == address):
        return Split(str(room), keeps=True, room=True)
    if not isinstance(host, str) or not isinstance(port, int):
        raise ApiError(400, "bootstrap_host and bootstrap_port are required", param="bootstrap_host")
    return Split(str(room), keeps=False, room=True, host=host, port=port)
