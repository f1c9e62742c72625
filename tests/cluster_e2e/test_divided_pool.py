"""examples/prefill-decode/kubernetes on a real cluster: decode Pods with the sidecar, prefill Pods by their label."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final

import pytest

from igw_testing.chat_load import chat_body
from igw_testing.product import ROOT, Space

pytestmark = pytest.mark.timeout(240)
EXAMPLE: Final = ROOT / "examples" / "prefill-decode" / "kubernetes"


def ask(url: str) -> tuple[int, Mapping[str, str]]:
    """Status and headers of one chat; (0, {}) while nobody answers."""
    body = json.dumps(dict(chat_body("A prompt. " * 50, tokens=3, model="llama"))).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, dict(answer.headers.items())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}
    except OSError:
        return 0, {}


def test_prompts_and_answers_are_computed_by_pods_of_their_own(space: Space) -> None:
    """The picker knows roles by the Pods' labels; without a prefill Pod, decode Pods compute prompts themselves."""
    space.apply(*sorted(EXAMPLE.glob("*.yaml")))
    for deployment in ("llama-prefill", "llama-decode"):
        space.ready(deployment)
    picker = space.picker("divided", "llm")
    url = space.chats("divided", 8081)
    picker.until_asked(url)
    picker.until_sees(4)
    assert sum(picker.metric("igw_picker_endpoint_role")) == 4
    space.until(lambda: ask(url)[1].get("x-igw-prefill") == "remote", "a prompt was computed elsewhere")
    answered = [ask(url) for _ in range(8)]
    assert [status for status, _ in answered] == [200] * 8
    assert {headers["x-igw-prefill"] for _, headers in answered} == {"remote"}
    names = {headers["x-sim-engine"] for _, headers in answered}
    assert names <= {pod["metadata"]["name"] for pod in space.pods("inferencegateway.io/role=decode")}
    space.kubectl("scale", "deployment/llama-prefill", "--replicas=0")
    space.until(lambda: not space.pods("inferencegateway.io/role=prefill"), "no prefill Pod is left")
    space.until(lambda: ask(url)[1].get("x-igw-prefill") == "local", "it goes on without")
    assert [ask(url)[0] for _ in range(4)] == [200] * 4
