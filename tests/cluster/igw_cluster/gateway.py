"""Envoy Gateway, installed as its users do it: with Helm and its own chart, the one of its Go module."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from igw_cluster.builds import ENVOY_GATEWAY
from igw_cluster.helm import Helm

NAMESPACE: Final = "envoy-gateway-system"
RELEASE: Final = "eg"
_INSTALL_S: Final = 180.0


def values(*, backends: bool = True, patch_policies: bool = True) -> dict[str, Any]:
    """The chart's values. `backends` and `patch_policies` switch the two kinds on that are off by default."""
    apis = {"enableBackend": backends, "enableEnvoyPatchPolicy": patch_policies}
    return {
        "global": {"images": {"envoyGateway": {"image": f"docker.io/envoyproxy/gateway:{ENVOY_GATEWAY}"}}},
        "config": {"envoyGateway": {"extensionApis": apis}},
        # One node has no topology, and with the injector each proxy waits half a minute for its neighbours.
        "topologyInjector": {"enabled": False},
    }


def install(helm: Helm, chart: Path, chosen: Mapping[str, Any] | None = None) -> None:
    """Install or change it, and wait until it is ready. Raises HelmFailed with Helm's reason."""
    limit = f"--timeout={_INSTALL_S:.0f}s"
    words = ("upgrade", "--install", RELEASE, str(chart), "-n", NAMESPACE, "--create-namespace", "--wait", limit)
    helm(*words, values=values() if chosen is None else chosen, within=_INSTALL_S + 30)
