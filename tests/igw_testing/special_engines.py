"""Engines as Pods that are not the usual ones: two on two ports of a Pod, one that speaks HTTP/2, one with WebSockets.

Each is a Deployment of one Pod with the label `app: NAME`. What they share is `product.engine_pods`.
"""

import copy
import sys
from typing import Any, Final

import yaml

from igw_testing.product import ROOT, engine_pods

# On answers of the engine that speaks HTTP/2: what was spoken.
PROTOCOL_HEADER: Final = "x-spoken"
_MANAGER: Final = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def two_ports(name: str, model: str) -> str:
    """Two simulated engines in a Pod. The one on port 8000 has the Pod's name, the one on 8001 is called `second`."""
    pods = _loaded(engine_pods(name, 1, model=model))
    containers = _containers(pods)
    other = copy.deepcopy(containers[0])
    other |= {"name": "second", "ports": [{"name": "http-second", "containerPort": 8001}]}
    other["args"] += ["--port", "8001", "--name", "second"]
    other["readinessProbe"]["httpGet"]["port"] = "http-second"
    containers.append(other)
    return _text(pods)


def http2(name: str, model: str) -> str:
    """A simulated engine behind an Envoy in its Pod, which takes HTTP/2 in clear text as well as HTTP/1.1."""
    inside = 8001
    pods = _loaded(engine_pods(name, 1, "--host", "127.0.0.1", "--port", str(inside), model=model))
    pod = pods["spec"]["template"]["spec"]
    front = {
        "name": "front",
        "image": "docker.io/envoyproxy/envoy:v1.40",
        "args": ["--config-path", "/front/envoy.yaml", "--concurrency", "1", "--disable-hot-restart"],
        "volumeMounts": [{"name": "front", "mountPath": "/front"}],
    }
    pod["containers"].append(front)
    pod["volumes"] = [{"name": "front", "configMap": {"name": f"{name}-front"}}]
    config: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-front"}}
    return _text(config | {"data": {"envoy.yaml": yaml.safe_dump(_front(8000, inside))}}) + _text(pods)


def provider(name: str) -> str:
    """No engine: a service beyond the gateway, which tells at `/got` what it was sent."""
    return _double(name, "igw_testing.provider_double", ready="/got")


def sockets(name: str) -> str:
    """A double that echoes what it gets by WebSocket, with its Pod's name."""
    return _double(name, "igw_testing.engine_double")


def leaving_late(pods: str, seconds: int) -> str:
    """The same Pods, which go on for so long after their end has begun: only then their engines are told to end."""
    body = _loaded(pods)
    body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = seconds + 10
    _containers(body)[0]["lifecycle"] = {"preStop": {"sleep": {"seconds": seconds}}}
    return _text(body)


def _double(name: str, module: str, ready: str = "") -> str:
    pods = _loaded(engine_pods(name, 1))
    container = _containers(pods)[0]
    del container["args"]
    container["command"] = [sys.executable, "-m", module, "0.0.0.0", "8000"]
    if ready:
        container["readinessProbe"]["httpGet"]["path"] = ready
    container["env"].append({"name": "PYTHONPATH", "value": str(ROOT / "tests")})
    pods["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    return _text(pods)


def _front(port: int, inside: int) -> dict[str, Any]:
    spoken = {"header": {"key": PROTOCOL_HEADER, "value": "%PROTOCOL%"}}
    manager = {
        "@type": f"type.googleapis.com/{_MANAGER}",
        "codec_type": "AUTO",
        "stat_prefix": "front",
        "route_config": {
            "response_headers_to_add": [spoken],
            "virtual_hosts": [
                {
                    "name": "engine",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ],
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    members = [{"lb_endpoints": [{"endpoint": {"address": _address("127.0.0.1", inside)}}]}]
    cluster = {"name": "engine", "load_assignment": {"cluster_name": "engine", "endpoints": members}}
    listener = {"name": "front", "address": _address("0.0.0.0", port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _loaded(text: str) -> dict[str, Any]:
    found: dict[str, Any] = next(yaml.safe_load_all(text))
    return found


def _containers(pods: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pods["spec"]["template"]["spec"]["containers"]
    return found


def _text(body: dict[str, Any]) -> str:
    return yaml.safe_dump(body) + "---\n"
