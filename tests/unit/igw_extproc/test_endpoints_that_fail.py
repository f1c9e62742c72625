"""What placement, the queue and standbys make of endpoints that fail."""

from dataclasses import replace

from igw_api import wire
from igw_api.resilience import PassiveHealth
from igw_api.split import Split
from igw_api.standby import Provider, Standby
from igw_extproc.domain import Ask
from igw_testing.builders import Picking, address, arrived, chat, load, member, members, model, policy, pool
from igw_testing.conversations import Serving, duplex, modes, observe
from igw_testing.ext_proc import (
    BUFFERED,
    NONE,
    destinations,
    headers_set,
    request_body,
    request_headers,
    with_attributes,
)
from igw_testing.placing import first, place

FULL = load(running=8, waiting=4, kv_usage=1.0, kv_capacity_tokens=10_000)


def fail(here: Picking, *hosts: int, now: float = 1.0) -> None:
    """These endpoints fail until they are out."""
    for host in hosts:
        for _ in range(PassiveHealth().failures):
            here.director.health.failed(here.ledger(host), 0, True, now)


def test_a_failing_endpoint_gets_no_request_until_it_is_probed() -> None:
    """Then as many at a time as its policy says; the flights' ends let the next ones in."""
    here = Picking(pool(), *members(2))
    fail(here, 1)
    assert {first(place(here, arrived(chat()))) for _ in range(8)} == {address(2)}
    here.director.health.tick(31.0)
    placed = [place(here, arrived(chat()), 31.0) for _ in range(8)]
    probes = [one for one in placed if first(one) == address(1)]
    assert len(probes) == PassiveHealth().probes
    for probe in probes:
        probe.flight.status = 200
        here.director.end(probe.flight, 32.0)
    assert here.ledger(1) not in here.director.health.out
    assert {first(place(here, arrived(chat()), 32.0)) for _ in range(8)} == {address(1), address(2)}


def test_a_websocket_that_opens_is_a_probe_that_has_succeeded() -> None:
    """It may stay open for hours, and keep others away for as long."""
    here = Serving(Picking(pool(), *members(2)))
    health = here.picking.director.health
    fail(here.picking, 1, now=here.now)
    here.now += 31.0
    health.tick(here.now)
    placed = [duplex(here.stream())[0] for _ in range(8)]
    probes = [head for head in placed if destinations(head)[0] == address(1)]
    assert len(probes) == PassiveHealth().probes and here.picking.ledger(1) in health.out
    for head in probes:
        observe(here.stream(), headers_set(head)[wire.LEASE_HEADER], status=101)
    assert here.picking.ledger(1) not in health.out
    assert not here.telemetry.first_byte, "to agree is no token"


def test_with_all_endpoints_out_requests_are_placed_all_the_same() -> None:
    """To refuse them would be no better."""
    here = Picking(pool(), *members(2))
    fail(here, 1, 2)
    assert {first(place(here, arrived(chat()))) for _ in range(20)} == {address(1), address(2)}


def test_a_divided_request_is_answered_by_the_only_endpoint_for_answers_though_it_fails() -> None:
    """One for prompts could not do it."""
    roles = {1: "prefill", 2: "decode"}
    engines = [replace(member(host), labels={"pool": "llm", wire.ROLE_LABELS[0]: role}) for host, role in roles.items()]
    here = Picking(pool(), policy("pd-split", split=Split()), *engines)
    fail(here, 2)
    assert first(place(here, arrived(chat()))) == address(2)


def test_requests_that_wait_for_an_endpoint_that_fails_choose_anew() -> None:
    """And nobody is sent there from the queue."""
    here = Serving(Picking(pool(), *members(1)))
    here.picking.ledger(1).reserve(Ask("m", 0, 10), 0, here.now)
    here.picking.says(1, FULL, here.now)
    waits = here.stream()
    waits.tell(modes(request_headers(), BUFFERED, NONE), request_body(chat()))
    assert here.admission.waiting == 1
    here.picking.serve(pool(), *members(2))
    fail(here.picking, 1, now=here.now)
    here.picking.says(2, load(), here.now)
    here.admission.wake(here.picking.ledger(1), here.now)
    here.admission.wake(here.picking.ledger(2), here.now)
    assert here.admission.waiting == 0
    (answer,) = waits.said[-1:]
    assert address(2).encode() in answer


def test_a_standby_takes_the_requests_of_a_pool_whose_endpoints_are_all_out() -> None:
    """And one endpoint that is in again takes them back."""
    cloud = Standby("standby/default/policy/cloud", "cloud", provider=Provider("api.example.com", 443, True, "/v1"))
    here = Serving(Picking(pool(), policy("prefix-cache", standbys=(cloud,)), model("m"), *members(2)))
    fail(here.picking, 1, 2, now=here.now)

    def told() -> dict[str, str]:
        stream = here.stream()
        headers = modes(request_headers(path="/v1/chat/completions"), BUFFERED, NONE)
        answers = stream.tell(with_attributes(headers, {"xds.route_name": "default/llm"}), request_body(chat("m")))
        return headers_set(answers[-1])

    assert told()[wire.POOL_HEADER] == cloud.key
    here.picking.director.health.forget(here.picking.ledger(1).slot)
    assert told()[wire.DESTINATION_HEADER].startswith(address(1))


def test_pools_follow_their_own_policies() -> None:
    """One that does not look at failures goes on."""
    careless = replace(policy("round-robin"), passive_health=PassiveHealth(enabled=False))
    here = Picking(pool(), careless, *members(2))
    fail(here, 1)
    assert {first(place(here, arrived(chat()))) for _ in range(4)} == {address(1), address(2)}
