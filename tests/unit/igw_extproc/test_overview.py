"""The state of all pools as the picker tells it: what `igw top` shows."""

from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.waiters import Limits
from igw_extproc.overview import overview
from igw_extproc.telemetry import Telemetry
from igw_testing.builders import Picking, address, load, members, policy, pool


def test_pools_endpoints_and_outcomes_are_told() -> None:
    here, told = Picking(pool(), policy("least-request"), *members(3)), Telemetry()
    here.says(1, load())
    here.ledger(3).unreachable("refused")
    told.placed.update({address(1): 3, address(2): 1})
    told.requests.update({("default/llm", "m", "placed"): 3, ("default/llm", "n", "placed"): 1, ("", "", "refused"): 2})
    told.saw_first_byte("default/llm", 0.5, 0.4)
    queue = {"default/llm": FlowQueue[object](Limits(10, 1.0, 1.0)).statistics(0.0)}
    views = here.datastore.views.values()
    state = overview(views, here.ledgers.statistics(), queue, {address(2): True}, told)
    assert state["outcomes"] == {"placed": 4, "refused": 2}
    (found,) = state["pools"]
    assert (found["name"], found["policy"], found["waiting"]) == ("default/llm", "least-request", 0)
    assert (found["first_bytes"], found["first_byte_s_total"]) == (1, 0.5)
    assert [(one["state"], one["placed"], one["share"]) for one in found["endpoints"]] == [
        ("available", 3, 0.75),
        ("ejected", 1, 0.25),
        ("refused", 0, 0.0),
    ]
