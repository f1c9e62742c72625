"""The chart of this repository as Helm renders it, for its tests."""

from pathlib import Path
from typing import Any, Final

import yaml

from igw_cluster import builds
from igw_cluster.helm import Helm

CHART: Final = Path(__file__).parents[2] / "charts" / "inference-gateway"
# Without a cluster Helm has to be told; it only compares it with what the chart asks for.
KUBERNETES: Final = f"--kube-version={builds.KUBERNETES}"


class Rendering:
    """`helm template` of the chart, as data."""

    def __init__(self, helm: Helm) -> None:
        self.helm = helm

    def text(self, values: dict[str, Any] | None = None, *words: str) -> str:
        """What Helm prints. Raises HelmFailed."""
        place = ("template", "igw", str(CHART), "--namespace=igw-system", KUBERNETES)
        return self.helm(*place, *words, values=values or {})

    def objects(self, values: dict[str, Any] | None = None, *words: str) -> dict[str, dict[str, Any]]:
        """By kind; of kinds with several objects, by kind and name."""
        documents = [one for one in yaml.safe_load_all(self.text(values, *words)) if one]
        kinds = [one["kind"] for one in documents]
        return {
            one["kind"] if kinds.count(one["kind"]) == 1 else f"{one['kind']}/{one['metadata']['name']}": one
            for one in documents
        }
