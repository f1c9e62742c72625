"""A flood of long prompts that have to wait does not fill the picker's memory, whichever transport brings them."""

import pytest

from igw_bench.flood import flood

COUNT = 400
BODIES_MB = COUNT * 0.4
# What a queue may hold, see `Limits.max_bytes`.
BOUND_MB = 134.2


@pytest.mark.parametrize("transport", ["http2", "grpc"])
async def test_prompts_are_not_kept_where_the_proxy_holds_them(transport: str) -> None:
    found = await flood(transport, COUNT, duplex=False)
    assert (found.waiting, found.refused) == (COUNT, 0)
    assert found.most - found.before < 0.6 * BODIES_MB


@pytest.mark.parametrize("transport", ["http2", "grpc"])
async def test_where_the_picker_must_hold_them_others_are_refused_in_time(transport: str) -> None:
    found = await flood(transport, COUNT, duplex=True)
    assert found.waiting + found.refused == COUNT
    assert 0.8 * BOUND_MB < found.waiting * 0.4 < BOUND_MB
    assert found.most - found.before < 2 * BOUND_MB
