"""The rendered files: what a change touches, what the picker is told, and that Envoy takes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from igw_operator.envoy import ConfigRefused, find_binary, validate
from igw_operator.plan.model import GatewayPlan
from igw_operator.render.access import ACCESS_FILTER
from igw_operator.render.bootstrap import bootstrap, everything, resource_files
from igw_operator.render.filters import FIRST_BYTE_FILTER, HOLD_FILTER, PLACEMENT_FILTER
from igw_testing.plans import endpoints, gateway, http_route, plan_of, pool, service, surroundings

BASE = (gateway(80, 81), service(), http_route(parent={"sectionName": "p80"}), pool(port=81))
RDS_80, RDS_81 = "rds_default_gw_80.json", "rds_default_gw_81.json"


def files_of(*texts: str) -> dict[str, str]:
    plan = plan_of(*texts)
    return dict(resource_files(plan, surroundings(plan)))


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The files that differ, or are in one only."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def route_entries(file: str) -> list[dict[str, Any]]:
    (table,) = json.loads(file)["resources"]
    return [route for host in table["virtual_hosts"] for route in host["routes"]]


def test_an_endpoint_that_comes_or_goes_changes_only_the_endpoints_file_of_its_cluster() -> None:
    """So it disturbs no connection, no route, no listener."""
    before, after = files_of(*BASE, endpoints("10.0.0.1")), files_of(*BASE, endpoints("10.0.0.1", "10.0.0.2"))
    assert changed(before, after) == {"eds_pool_default_llm.json"}


def test_a_pool_that_is_attached_later_does_not_change_its_listener() -> None:
    """A changed listener is drained; the filters are there from the start."""
    without = (*BASE[:3], pool())
    assert changed(files_of(*without), files_of(*BASE)) == {RDS_81, "cds.json", "eds_pool_default_llm.json"}


def test_a_changed_timeout_changes_only_the_routes() -> None:
    """Of its port."""
    slow = http_route(parent={"sectionName": "p80"}, rule={"timeouts": {"request": "24h"}})
    assert changed(files_of(*BASE), files_of(*BASE[:2], slow, BASE[3])) == {RDS_80}


def test_a_new_port_changes_the_listeners() -> None:
    """And adds a route table."""
    wider = (gateway(80, 81, 82), *BASE[1:])
    assert changed(files_of(*BASE), files_of(*wider)) == {"lds.json", "rds_default_gw_82.json"}


def test_a_file_is_written_before_the_files_that_refer_to_it() -> None:
    """Endpoints, clusters, routes, listeners."""
    kinds = [name.split("_")[0].removesuffix(".json") for name in files_of(*BASE)]
    assert kinds == sorted(kinds, key=["eds", "cds", "rds", "lds"].index)


def test_the_route_tells_the_picker_its_pool() -> None:
    """By its name, which arrives as an attribute; so do the routes of what has no body."""
    entries = route_entries(files_of(*BASE)[RDS_81])
    assert [entry["name"] for entry in entries] == ["default/llm"] * 3
    named = [[header["name"] for header in entry["match"].get("headers", ())] for entry in entries]
    assert named == [["upgrade"], [":path"], []]


def test_the_pickers_filters_are_off_until_a_route_turns_them_on() -> None:
    """Bodies of plain routes stream; a request that has no route at all is none of the picker's business."""
    files = files_of(*BASE)
    ours = {PLACEMENT_FILTER, HOLD_FILTER, FIRST_BYTE_FILTER}
    for listener in json.loads(files["lds.json"])["resources"]:
        filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        assert {one["name"] for one in filters if one.get("disabled")} == {*ours, ACCESS_FILTER}
    (plain,) = route_entries(files[RDS_80])
    assert "typed_per_filter_config" not in plain
    upgrade, kept, placed = (set(route["typed_per_filter_config"]) for route in route_entries(files[RDS_81]))
    assert upgrade == {PLACEMENT_FILTER, FIRST_BYTE_FILTER}
    assert kept == {PLACEMENT_FILTER}
    assert placed == ours


def test_shares_are_taken_one_after_the_other_from_one_draw() -> None:
    """Weights 1, 2 and 1: a quarter, up to three quarters, and all the rest."""
    backends = [{"name": "web", "port": 80, "weight": weight} for weight in (1, 2, 1)]
    entries = route_entries(files_of(gateway(80), service(), http_route(backends=backends))["rds_default_gw_80.json"])
    bounds = [entry["match"].get("runtime_fraction", {}).get("default_value", {}).get("numerator") for entry in entries]
    assert bounds == [250_000, 750_000, None]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ({"type": "Exact", "value": "/v1/x"}, {"path": "/v1/x"}),
        ({"type": "PathPrefix", "value": "/v1"}, {"path_separated_prefix": "/v1"}),
        ({"type": "PathPrefix", "value": "/v1/"}, {"path_separated_prefix": "/v1"}),
        ({"type": "PathPrefix", "value": "/"}, {"prefix": "/"}),
        ({"type": "RegularExpression", "value": "/v1/.*"}, {"safe_regex": {"regex": "/v1/.*"}}),
    ],
)
def test_paths_are_compared_as_the_gateway_api_has_it(path: dict[str, str], expected: dict[str, Any]) -> None:
    """A prefix covers whole segments."""
    texts = (gateway(80), service(), http_route(rule={"matches": [{"path": path}]}))
    (entry,) = route_entries(files_of(*texts)["rds_default_gw_80.json"])
    assert entry["match"] == expected


def test_the_bootstrap_has_an_admin_port_on_this_machine_only_and_refers_to_files() -> None:
    """And nothing that could change."""
    plan = GatewayPlan()
    written = json.loads(bootstrap(surroundings(plan, "/var/igw")))
    assert written["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    sources = written["dynamic_resources"].values()
    assert [source["path_config_source"]["path"] for source in sources] == ["/var/igw/lds.json", "/var/igw/cds.json"]


RICH = (
    gateway(80, 81),
    service(),
    http_route(
        rule={
            "matches": [
                {"path": {"type": "RegularExpression", "value": "/v[12]/.*"}, "method": "POST"},
                {
                    "headers": [
                        {"name": "x-a", "value": "1"},
                        {"name": "x-b", "value": "a.*", "type": "RegularExpression"},
                    ]
                },
                {"queryParams": [{"name": "q", "value": "1"}]},
            ],
            "timeouts": {"request": "24h", "backendRequest": "10s"},
        },
        hostnames=["*.example"],
        backends=[{"name": "web", "port": 80, "weight": 1}, {"name": "gone", "port": 80, "weight": 2}],
    ),
    pool("open", 81),
    pool("closed", 80, fail_close=True),
    endpoints("10.0.0.1", "fd00::1", app="open"),
)


async def test_envoy_accepts_what_is_rendered(tmp_path: Path) -> None:
    """All features at once, asked of the real program."""
    plan = plan_of(*RICH)
    path = tmp_path / "check.json"
    path.write_text(everything(plan, surroundings(plan)))
    await validate(find_binary(), path)


async def test_envoy_refuses_an_expression_that_it_cannot_run_and_says_why(tmp_path: Path) -> None:
    """Python's expressions look ahead, Envoy's do not. The reason is one line, for the one who wrote the route."""
    bad = http_route(rule={"matches": [{"path": {"type": "RegularExpression", "value": "/v1/(?=x)"}}]})
    plan = plan_of(gateway(80), service(), bad)
    path = tmp_path / "check.json"
    path.write_text(everything(plan, surroundings(plan)))
    with pytest.raises(ConfigRefused, match="invalid perl operator") as caught:
        await validate(find_binary(), path)
    assert "\n" not in str(caught.value)
