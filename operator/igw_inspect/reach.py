"""Ways to a picker's pages: by address, by the state directory of `igw up`, or through a cluster's API server.

Read-only. Called by `cli`; every failure is one `Unreachable` that says what to do.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError as TransportError

from igw_api import wire
from kubernetes import client, config

TIMEOUT_S: Final = 5.0


class Unreachable(Exception):
    """No picker could be asked. The text is for people."""


class Answer(NamedTuple):
    """A page: its status, and what its JSON says."""

    status: int
    value: Any


class Picker(Protocol):
    """One picker."""

    @property
    def name(self) -> str: ...
    def get(self, path: str) -> Answer: ...


class ByAddress:
    """A picker whose metrics port can be connected to."""

    def __init__(self, address: str) -> None:
        self.name = address
        # Whatever proxy the environment names is for the way out, and this is not.
        self._opener = build_opener(ProxyHandler({}))

    def get(self, path: str) -> Answer:
        """Raises Unreachable."""
        try:
            with self._opener.open(f"http://{self.name}{path}", timeout=TIMEOUT_S) as response:
                return Answer(response.status, json.load(response))
        except HTTPError as error:
            return Answer(error.code, _json(error.read()))
        except (URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(f"the picker at {self.name} does not answer: {reason}; is the gateway running?") from None


class ThroughApiServer:
    """A picker's Pod, by way of the API server: whoever may `get` `pods/proxy` in its namespace."""

    def __init__(self, api: client.CoreV1Api, namespace: str, pod: str) -> None:
        self._api = api
        self._namespace = namespace
        self._pod = pod
        self.name = f"{namespace}/{pod}"

    def get(self, path: str) -> Answer:
        """Raises Unreachable."""
        ask: Any = self._api.connect_get_namespaced_pod_proxy_with_path
        target = f"{self._pod}:{_METRICS_PORT}"
        try:
            found = ask(target, self._namespace, path.lstrip("/"), _preload_content=False, _request_timeout=TIMEOUT_S)
            return Answer(found.status, _json(found.data))
        except ApiException as error:
            told = _json(error.body or "")
            if isinstance(told, dict) and "error" in told:
                return Answer(error.status or 0, told)  # the picker's words, not the API server's
            raise Unreachable(f"the picker {self.name} cannot be asked: {error.reason}") from None
        except TransportError as error:
            raise Unreachable(f"the API server does not answer: {type(error).__name__}") from None


# Of pickers' Pods.
_METRICS_PORT: Final = "metrics"


def by_state_directory(directory: Path) -> ByAddress:
    """The picker of the `igw up` whose state is there. Raises Unreachable."""
    try:
        places = json.loads((directory / wire.PLACES_FILE).read_text())
        return ByAddress(places["metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Unreachable(
            f"{directory} holds no running gateway; start `igw up` here, or say where one is: "
            "--state-dir DIR, --picker HOST:PORT, or --namespace NAME on Kubernetes"
        ) from None


def in_namespace(namespace: str, kubeconfig: Path | None) -> Sequence[Picker]:
    """All pickers of a namespace. Raises Unreachable."""
    try:
        load: Any = config.load_kube_config
        load(str(kubeconfig) if kubeconfig is not None else None)
        api = client.CoreV1Api()
        found: Any = api.list_namespaced_pod(namespace, label_selector=wire.PICKER_LABEL, _request_timeout=TIMEOUT_S)
    except (ConfigException, OSError) as error:
        raise Unreachable(f"no way to a cluster: {error}") from None
    except ApiException as error:
        raise Unreachable(f"Pods of {namespace} cannot be listed: {error.reason}") from None
    except TransportError as error:
        raise Unreachable(f"the API server does not answer: {type(error).__name__}") from None
    running = [pod.metadata.name for pod in found.items if pod.status.phase == "Running"]
    if not running:
        raise Unreachable(f"no picker runs in the namespace {namespace}; pickers are where their Gateways are")
    return [ThroughApiServer(api, namespace, name) for name in running]


def _json(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
