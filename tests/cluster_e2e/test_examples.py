"""examples/kubernetes as its README tells it, on a real cluster: each file does what it says, and all of it goes."""

import time
from typing import Any, Final

import pytest
import yaml

from igw_testing.chat_load import chat_body
from igw_testing.helm_chart import KUBERNETES
from igw_testing.pages import commands, of_clusters
from igw_testing.product import ROOT, Product, Space, post

pytestmark = pytest.mark.timeout(240)
EXAMPLES: Final = ROOT / "examples" / "kubernetes"
GATEWAY: Final = "inference-gateway"
BASE: Final = ("gateway.yaml", "engines.yaml", "pool.yaml")
CHANGE_S: Final = 20.0


@pytest.fixture(scope="module")
def place(space: Space) -> Space:
    """The README's first step, asked by Envoy."""
    space.apply(*(EXAMPLES / name for name in BASE))
    space.ready("llama-engines")
    space.picker(GATEWAY, "llm").until_asked(space.chats(GATEWAY, 8081))
    return space


def ask(place: Space, port: int, model: str) -> tuple[int, dict[str, Any]]:
    """One short chat."""
    return post(place.chats(GATEWAY, port), chat_body("Hi", tokens=3, model=model))


def columns(place: Space, pool: str) -> dict[str, str]:
    """A line of `kubectl get infpool`, by its headings."""
    head, line = place.kubectl("get", "infpool", pool).splitlines()
    return dict(zip(head.split(), line.split(), strict=True))


def test_the_readme_tells_of_every_file() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in sorted(EXAMPLES.glob("*.yaml")) if path.name not in readme] == []


def test_a_pool_of_three_engines_answers(place: Space) -> None:
    """And `kubectl get` says so."""
    status, body = ask(place, 8081, "llama")
    assert (status, body["usage"]["completion_tokens"]) == (200, 3)
    place.until(lambda: columns(place, "llama")["READY"] == "3", "three endpoints")
    assert columns(place, "llama")["ACCEPTED"] == "True"


def test_a_second_pool_on_the_same_port_is_found_by_the_model(place: Space) -> None:
    place.apply(EXAMPLES / "several-pools.yaml")
    place.ready("qwen-engines")
    place.until(lambda: ask(place, 8081, "qwen")[0] == 200, "the second pool answers")
    assert ask(place, 8081, "qwen")[1]["model"] == "qwen"
    assert ask(place, 8081, "llama")[1]["model"] == "llama"
    place.kubectl("delete", "-f", str(EXAMPLES / "several-pools.yaml"))
    place.until(lambda: ask(place, 8081, "qwen")[0] == 404, "its model is gone")


def test_a_pool_that_fails_closed_never_answers_unplaced(place: Space) -> None:
    """The picker is killed: answers are placed ones, or a 503 in OpenAI's form; and it heals."""
    place.apply(EXAMPLES / "fail-close.yaml")
    asked = place.picker(GATEWAY, "strict")
    place.until(lambda: ask(place, 8082, "llama")[0] == 200, "it answers")
    asked.kill()
    refused = 0
    deadline = time.monotonic() + CHANGE_S
    while (refused == 0 or ask(place, 8082, "llama")[0] != 200) and time.monotonic() < deadline:
        status, body = ask(place, 8082, "llama")
        assert status in (200, 503), body
        if status == 503:
            assert body["error"]["code"] == "picker_unavailable"
            refused += 1
    assert refused
    place.until(lambda: ask(place, 8082, "llama")[0] == 200, "it answers again")


def test_another_policy_is_shown_by_the_pool(place: Space) -> None:
    place.apply(EXAMPLES / "policy.yaml")
    place.until(lambda: columns(place, "llama")["POLICY"] == "least-request", "the policy is in force")
    assert ask(place, 8081, "llama")[0] == 200


def test_the_readmes_commands_install_and_expose(product: Product) -> None:
    """From the repository's top. The chart is here already, so that Helm only says what it would install."""
    own = product.space()
    helm, kubectl = [words for words in commands((ROOT / "README.md").read_text()) if of_clusters(words)]
    own.kubectl(*(str(ROOT / word) if word.startswith("examples") else word for word in kubectl[1:]))
    asked = own.picker(GATEWAY, "llm")
    asked.until_asked(own.chats(GATEWAY, 8081))
    assert helm[:2] == ["helm", "install"]
    words = (str(ROOT / word) if word.startswith("charts") else word for word in helm[2:])
    assert "registry.example/inference-gateway:" in product.helm("template", *words, KUBERNETES)
    own.remove()


def test_deleting_the_files_removes_everything(product: Product) -> None:
    """Also what the operator made of them. The GatewayClass stays: in this cluster others use it."""
    own = product.space()
    own.apply(*sorted(EXAMPLES.glob("*.yaml")))
    own.until(lambda: len(own.versions()) > 20, "the operator has made its objects")
    for path in EXAMPLES.glob("*.yaml"):
        kept = [one for one in yaml.safe_load_all(path.read_text()) if one["kind"] != "GatewayClass"]
        own.kubectl("delete", "-f", "-", stdin=yaml.safe_dump_all(kept))
    own.until(lambda: own.versions() == {}, "nothing of ours is left")
    own.remove()
