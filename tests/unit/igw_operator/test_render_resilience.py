"""One rule about endpoints that fail and one about retries, spelled for both homes."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import yaml

from igw_operator.render.clusters import cluster
from igw_operator.render.envoy_gateway.listener import tries_log
from igw_operator.render.files import PICKER_CLUSTER, text
from igw_operator.render.filters import failed_tries
from igw_operator.render.routes import route_table
from igw_testing.gateway_texts import endpoints, gateway, pool
from igw_testing.plans import PICKER, objects_of, plan_of, rendered, surroundings


def policy(**spec: Any) -> str:
    """An InferencePoolPolicy for the pool."""
    body = {
        "apiVersion": "inferencegateway.io/v1alpha1",
        "kind": "InferencePoolPolicy",
        "metadata": {"name": "treated"},
        "spec": {"targetRefs": [{"name": "llm"}], **spec},
    }
    return yaml.safe_dump(body)


def standalone(**spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pool's cluster and its retry policy, as Envoy reads them."""
    plan = plan_of(gateway(80), pool(port=80), endpoints("10.0.0.1"), policy(**spec))
    (planned,) = plan.clusters
    (listener,) = plan.listeners
    table = json.loads(text(route_table(listener, plan)))
    found: dict[str, Any] = json.loads(text(cluster(planned, surroundings(plan))))
    return found, table["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"]


def envoy_gateway(**spec: Any) -> dict[str, Any]:
    """The pool's BackendTrafficPolicy."""
    texts = (gateway(80), pool(port=80), policy(**spec))
    found = rendered(objects_of(*texts), plan_of(*texts), None, PICKER)
    specs: list[dict[str, Any]] = [one.manifest["spec"] for one in found if one.identity[0] == "BackendTrafficPolicy"]
    return specs[0]


HEALTH = {
    "consecutiveFailures": 7,
    "failurePercent": 40,
    "minRequests": 12,
    "interval": "2s",
    "baseEjectionTime": "4s",
    "maxEjectionTime": "44s",
    "maxEjectedPercent": 34,
}


def test_passive_health_is_the_same_rule_in_both() -> None:
    """As far as Envoy Gateway has words for it."""
    outliers = standalone(passiveHealth=HEALTH)[0]["outlier_detection"]
    assert outliers["consecutive_gateway_failure"] == 7 and outliers["enforcing_consecutive_gateway_failure"] == 100
    assert outliers["failure_percentage_threshold"] == 40 and outliers["failure_percentage_request_volume"] == 12
    assert (outliers["interval"], outliers["base_ejection_time"], outliers["max_ejection_time"]) == ("2s", "4s", "44s")
    assert outliers["max_ejection_percent"] == 34 and outliers["always_eject_one_host"] is True
    passive = envoy_gateway(passiveHealth=HEALTH)["healthCheck"]["passive"]
    assert passive["consecutiveGatewayErrors"] == 7 and passive["failurePercentageThreshold"] == 40
    assert (passive["interval"], passive["baseEjectionTime"]) == ("2s", "4s")
    assert passive["maxEjectionPercent"] == 34 and passive["alwaysEjectOneEndpoint"] is True


def test_what_is_not_looked_at_is_not_enforced() -> None:
    """Nor is anything where failures are not looked at."""
    nothing = {"consecutiveFailures": 0, "failurePercent": 0}
    outliers = standalone(passiveHealth=nothing)[0]["outlier_detection"]
    assert outliers["enforcing_consecutive_gateway_failure"] == outliers["enforcing_failure_percentage"] == 0
    passive = envoy_gateway(passiveHealth=nothing)["healthCheck"]["passive"]
    assert passive["consecutiveGatewayErrors"] > 1000 and "failurePercentageThreshold" not in passive
    assert "outlier_detection" not in standalone(passiveHealth={"enabled": False})[0]
    assert "passive" not in envoy_gateway(passiveHealth={"enabled": False})["healthCheck"]


def test_answers_of_full_endpoints_are_no_errors() -> None:
    """Without such statuses all from 500 are."""

    def matcher(statuses: list[int]) -> str:
        options = standalone(passiveHealth={"fullStatuses": statuses})[0]["typed_extension_protocol_options"]
        (found,) = options.values()
        return json.dumps(found["outlier_detection"])

    assert '"not_match"' in matcher([503, 529]) and "503|529" in matcher([503, 529])
    assert '"not_match"' not in matcher([]) and "5[0-9][0-9]" in matcher([])


def test_retries_are_the_same_rule_in_both() -> None:
    """Triggers, statuses, number and budget."""
    asked = {"attempts": 4, "statuses": [429, 503], "lost": "Fail", "budgetPercent": 30, "minConcurrent": 9}
    whole, retry = standalone(retry=asked)
    assert retry["num_retries"] == 4 and retry["retriable_status_codes"] == [429, 503]
    triggers = ["connect-failure", "refused-stream", "reset-before-request", "retriable-status-codes"]
    assert retry["retry_on"].split(",") == triggers
    budget = whole["circuit_breakers"]["thresholds"][0]["retry_budget"]
    assert budget == {"budget_percent": {"value": 30.0}, "min_retry_concurrency": 9}
    spec = envoy_gateway(retry=asked)
    assert spec["retry"]["numRetries"] == 4
    assert spec["retry"]["retryOn"] == {"triggers": triggers, "httpStatusCodes": [429, 503]}
    share = {"numerator": 30, "denominator": 100}
    assert spec["circuitBreaker"]["retryBudget"] == {"percent": share, "minRetryConcurrency": 9}


def test_by_default_a_lost_request_is_tried_again_and_no_error_is() -> None:
    """But 503, which says that nothing was done."""
    retry = standalone()[1]
    assert "reset" in retry["retry_on"].split(",") and retry["retriable_status_codes"] == [503]
    assert not {"5xx", "gateway-error", "retriable-4xx"} & set(retry["retry_on"].split(","))
    assert "retriable-status-codes" not in standalone(retry={"statuses": []})[1]["retry_on"]
    assert envoy_gateway(retry={"statuses": []})["retry"]["retryOn"].keys() == {"triggers"}


def test_both_tell_the_picker_of_the_same_tries() -> None:
    """By Envoy's own classes, and without them. What Envoy leaves out as a default is written there."""
    ours = tries_log(PICKER_CLUSTER)
    equal = ours["filter"]["or_filter"]["filters"][2]["status_code_filter"]["comparison"]
    assert equal.pop("op") == "EQ"
    assert ours.pop("typed_config").pop("@type").endswith("HttpGrpcAccessLogConfig")
    theirs = json.loads(text(failed_tries()))
    config = theirs.pop("typed_config")
    assert theirs == ours
    fresh = tries_log(PICKER_CLUSTER)["typed_config"]
    assert {name: config[name] for name in fresh} == fresh


def test_with_patches_envoy_gateways_router_tells_the_picker_of_failed_tries() -> None:
    """On the listener, through the cluster of its ext_proc filter."""
    texts = (gateway(80), pool(port=80))
    found = rendered(objects_of(*texts), plan_of(*texts), None, replace(PICKER, patch_policies=True))
    (patch,) = (one.manifest["spec"] for one in found if one.identity[0] == "EnvoyPatchPolicy")
    (one,) = (each for each in patch["jsonPatches"] if each["operation"]["path"] == "/upstream_log")
    assert "envoy.filters.http.router" in one["operation"]["jsonPath"]
    assert "envoyextensionpolicy/default/igw-gw-p80/extproc/0" in json.dumps(one["operation"]["value"])


def test_the_operator_does_without_envoys_classes() -> None:
    """They take a hundred megabytes, and only a gateway on one machine writes Envoy's own configuration."""
    script = "import sys, igw_operator.controller.cli; print([one for one in sys.modules if one.startswith('envoy_d')])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"
