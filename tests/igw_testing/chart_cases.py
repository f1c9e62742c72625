"""The values files that the chart is tried with: one folder of tests/chart/cases each."""

from pathlib import Path
from typing import Any, Final

import yaml

CASES: Final = sorted((Path(__file__).parents[1] / "chart" / "cases").iterdir())


def values_of(case: Path) -> dict[str, Any]:
    """The values of one case."""
    return dict(yaml.safe_load((case / "values.yaml").read_text()))
