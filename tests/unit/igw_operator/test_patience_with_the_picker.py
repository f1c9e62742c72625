"""How long proxies wait for the picker: longer than it may hold a request."""

from igw_api.objects import LONGEST_WAIT, Queue
from igw_operator.plan.model import GatewayPlan


def test_proxies_wait_longer_than_any_queue_holds_a_request() -> None:
    assert GatewayPlan().picker.message_timeout > LONGEST_WAIT >= Queue().wait_timeout
