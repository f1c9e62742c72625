"""The manifests in examples/kubernetes, as far as an API server without a node can tell: taken, and understood.

The Gateway API's own kinds are not installed here; they are read by our models. The whole cluster runs the examples.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from igw_api.manifests import parse
from igw_api.objectset import ObjectSet
from igw_cluster.kubectl import Kubectl

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "kubernetes"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_server_takes_the_example(installed: Kubectl, namespace: str, path: Path) -> None:
    """Strictly: a field that would be dropped is an error."""
    ours = [one for one in documents(path) if not one["apiVersion"].startswith("gateway.networking")]
    if ours:
        installed.apply(yaml.safe_dump_all(ours), "-n", namespace, "--validate=strict")


def test_all_examples_together_make_sense() -> None:
    """No mistake, no name twice, and every pool on a port that the Gateway has."""
    text = "\n---\n".join(path.read_text() for path in FILES)
    result = parse(text, "examples")
    assert result.problems == ()
    objects = ObjectSet.of(result.objects)
    pools = objects.pools.values()
    (gateway,) = objects.gateways.values()
    attached = [pool.attach_to for pool in pools]
    assert {one.port for one in attached if one} <= {listener.port for listener in gateway.listeners}
    assert all(one and one.gateway == gateway.key for one in attached)
    assert len({pool.picker for pool in pools}) == len(list(pools))


def test_the_examples_use_the_image_of_the_chart() -> None:
    """So that they run as soon as the chart does."""
    chart = yaml.safe_load((ROOT / "charts" / "inference-gateway" / "Chart.yaml").read_text())
    deployments = [one for path in FILES for one in documents(path) if one["kind"] == "Deployment"]
    images = {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in deployments}
    assert images == {f"inference-gateway:{chart['appVersion']}"}


def test_every_example_is_named_in_the_readme() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in FILES if path.name not in text] == []
