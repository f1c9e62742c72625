"""Objects of the kinds that users write, as the API server takes them: builders with overrides, for its tests.

A field that is overridden with None is left out.
"""

from typing import Any

import yaml

from igw_cluster.kubectl import Kubectl

K8S, X_K8S, LLM_D, OWN = (
    "inference.networking.k8s.io",
    "inference.networking.x-k8s.io",
    "llm-d.ai",
    "inferencegateway.io",
)


def pool(version: str = "v1", name: str = "pool", **spec: Any) -> dict[str, Any]:
    if version == "v1":
        base: dict[str, Any] = {"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 8000}]}
        return made(f"{K8S}/v1", "InferencePool", name, base | spec)
    return made(
        f"{X_K8S}/{version}", "InferencePool", name, {"selector": {"app": "x"}, "targetPortNumber": 8000} | spec
    )


def model(version: str = "v1alpha2", name: str = "model", **spec: Any) -> dict[str, Any]:
    return made(f"{X_K8S}/{version}", "InferenceModel", name, {"modelName": "m", "poolRef": {"name": "pool"}} | spec)


def objective(group: str = LLM_D, **spec: Any) -> dict[str, Any]:
    return made(f"{group}/v1alpha2", "InferenceObjective", "objective", {"poolRef": {"name": "pool"}} | spec)


def rewrite(group: str = LLM_D, **spec: Any) -> dict[str, Any]:
    base = {"poolRef": {"name": "pool"}, "rules": [{"targets": [{"modelRewrite": "m2"}]}]}
    return made(f"{group}/v1alpha2", "InferenceModelRewrite", "rewrite", base | spec)


def policy(**spec: Any) -> dict[str, Any]:
    return made(f"{OWN}/v1alpha1", "InferencePoolPolicy", "policy", {"targetRefs": [{"name": "pool"}]} | spec)


def endpoints(*listed: dict[str, Any]) -> dict[str, Any]:
    return made(f"{OWN}/v1alpha1", "EndpointList", "here", {"endpoints": list(listed)})


def made(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    kept = {field: value for field, value in spec.items() if value is not None}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": kept}


def apply(kubectl: Kubectl, namespace: str, *manifests: dict[str, Any]) -> str:
    return kubectl.apply(yaml.safe_dump_all(manifests), "-n", namespace)
