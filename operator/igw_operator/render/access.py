"""Requests without a token of their route are refused before anything else happens to them. Pure.

Our own Envoy compares digests in `access.lua`; its configuration has no token in it. The filter is on every listener
and off where no route turns it on, so a token that is replaced changes routes only, which disturbs no connection.
"""

from importlib.resources import files
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.extensions.filters.http.lua import v3 as lua_v3
from envoy_data_plane.google.protobuf import Any as PackedAny
from envoy_data_plane.google.protobuf import Struct

from igw_api import wire
from igw_operator.plan.model import Guard
from igw_operator.render.errors import CHALLENGE, UNAUTHORIZED

ACCESS_FILTER: Final = "access"
SCRIPT: Final = files("igw_operator.render").joinpath("access.lua").read_text(encoding="utf-8")


def access_filter() -> lua_v3.Lua:
    """The check, as every listener has it."""
    return lua_v3.Lua(default_source_code=core_v3.DataSource(inline_string=SCRIPT))


def guarded(guard: Guard | None) -> dict[str, PackedAny]:
    """The filter as a route wants it."""
    if guard is None:
        return {}
    context = {
        "clients": dict(guard.digests),
        "header": wire.CLIENT_HEADER,
        "challenge": CHALLENGE,
        "refusal": UNAUTHORIZED,
    }
    return {ACCESS_FILTER: PackedAny.pack(lua_v3.LuaPerRoute(filter_context=Struct.from_dict(context)))}
