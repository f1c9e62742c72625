"""What clients may not send: a header that is added to `wire` must be given its place here, and is removed or not."""

import json

from igw_api import wire
from igw_operator.render.bootstrap import LDS_FILE, resource_files
from igw_testing.gateway_texts import gateway, pool
from igw_testing.plans import objects_of, plan_of, rendered, surroundings

OF_CLIENTS = {
    wire.OBJECTIVE_HEADER,
    wire.MODEL_REWRITE_HEADER,
    wire.MODEL_HEADER,
    wire.FAIRNESS_HEADER,
    wire.SESSION_HEADER,
    wire.EXPLAIN_HEADER,
}
OF_RESPONSES = {
    wire.DROP_REASON_HEADER,
    wire.WENT_INTO_RESPONSE_HEADER,
    wire.PREFILL_OUTCOME_HEADER,
    wire.SERVED_BY_HEADER,
    wire.DECISION_HEADER,
}
# Envoy takes these from nobody outside: `use_remote_address`, and no address counts as inside.
OF_ENVOY = {wire.TRY_TIMEOUT_HEADER}


def test_every_header_has_its_place() -> None:
    names = [value for name, value in vars(wire).items() if name.endswith("_HEADER")]
    assert sorted(names) == sorted([*OF_CLIENTS, *OF_RESPONSES, *OF_ENVOY, *wire.PRIVATE_HEADERS])


def test_both_homes_remove_those_that_are_private_before_anything_reads_them() -> None:
    plan = plan_of(gateway(80), pool(port=80))
    listeners = json.dumps(json.loads(resource_files(plan, surroundings(plan))[LDS_FILE]))
    assert [name for name in wire.PRIVATE_HEADERS if f'{{"remove": "{name}"}}' not in listeners] == []
    objects = rendered(objects_of(gateway(80), pool(port=80)), plan)
    (client,) = [one.manifest for one in objects if one.manifest["kind"] == "ClientTrafficPolicy"]
    assert client["spec"]["headers"]["earlyRequestHeaders"]["remove"] == list(wire.PRIVATE_HEADERS)
