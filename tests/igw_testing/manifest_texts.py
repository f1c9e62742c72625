"""Short ways to write manifests in tests, and to see what became of them."""

from typing import Any, TypeVar

import yaml

from igw_api.manifests import parse
from igw_api.objects import AnyObject

Wanted = TypeVar("Wanted", bound=AnyObject)

ALPHA = "inference.networking.x-k8s.io"
V1 = "inference.networking.k8s.io/v1"
GATEWAY = "gateway.networking.k8s.io/v1"


def manifest(kind: str, version: str, spec: dict[str, Any] | None = None, **metadata: Any) -> str:
    """One document's text. The name is `x` unless given."""
    data: dict[str, Any] = {"apiVersion": version, "kind": kind, "metadata": {"name": "x", **metadata}}
    if spec is not None:
        data["spec"] = spec
    return yaml.safe_dump(data)


def accepted(text: str, wanted: type[Wanted]) -> Wanted:
    """The only object that `text` gives, which must be a `wanted`, with no problem."""
    result = parse(text, "test.yaml")
    assert not result.problems, "\n".join(str(problem) for problem in result.problems)
    (found,) = result.objects
    assert isinstance(found, wanted)
    return found


def refusals(text: str) -> list[str]:
    """Each problem as `path: message`."""
    return [f"{problem.path}: {problem.message}" for problem in parse(text, "test.yaml").problems]
