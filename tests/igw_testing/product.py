"""The product on the test cluster, as a user has it: the chart by Helm, engines as Pods, requests through the gateway.

One cluster serves a test session, so each test takes a namespace of its own with its own Gateway, and hence its own
Envoy. What Envoy does is asked of Envoy, by requests: that an object was accepted proves nothing.
"""

import itertools
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from igw_api import wire
from igw_cluster import builds, diagnostics, gateway
from igw_cluster.cluster import Cluster, running_cluster
from igw_cluster.cri.images import Image
from igw_cluster.helm import Helm
from igw_cluster.images import gateway_images, python_image, runtime
from igw_cluster.toolchain import Say
from igw_testing.chat_load import chat_body
from igw_testing.gateway_process import MODEL
from igw_testing.operator_process import MANAGED, OWN_KINDS

ROOT: Final = Path(__file__).parents[2]
# The manifests that the first users brought.
MANIFESTS: Final = ROOT / "tests" / "data" / "manifests"
CHART: Final = ROOT / "charts" / "inference-gateway"
SYSTEM: Final = "igw-system"
RELEASE: Final = "igw"
OPERATOR: Final = "igw-inference-gateway"
IMAGE: Final = "inference-gateway"
# A node with two cores starts a Pod of ours within a few seconds, and several at once in more.
READY_S: Final = 60.0
_NUMBERS: Final = itertools.count(1)
_CODE: Final = ("operator", "extproc", "crds", "protos", "examples", "tests")
# Ten milliseconds a token, and room for every request of a test: nothing queues unless a test asks for it.
_ENGINE: Final = (
    *("sim", "--host", "0.0.0.0", "--port", "8000", "--name", "$(POD_NAME)", "--preset", "tiny"),
    *("--time-scale", "0.2", "--kv-blocks", "20000", "--max-sequences", "200", "--output-tokens", "fixed:1000000"),
)
_LOCKED: Final = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def product_image() -> Image:
    """What the Dockerfile makes, as far as a process can tell: `igw` of the environment that runs this."""
    folders = [ROOT / name for name in _CODE]
    environment = {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    return python_image([str(Path(sys.prefix) / "bin" / "igw")], *folders, env=environment)


def engine_pods(name: str, replicas: int = 3, *options: str, model: str = MODEL, **spec: Any) -> str:
    """A Deployment of simulated engines with the label `app: NAME`; `spec` goes into the Pods' own."""
    container = {
        "name": "engine",
        "image": IMAGE,
        "args": [*_ENGINE, "--model", model, *options],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "securityContext": _LOCKED,
    }
    pod = {"automountServiceAccountToken": False, "containers": [container], **spec}
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    labels = {"matchLabels": {"app": name}}
    return manifest("apps/v1", "Deployment", name, {"replicas": replicas, "selector": labels, "template": template})


def service(name: str, port: int = 8000) -> str:
    """A plain Service before the Pods with the label `app: NAME`."""
    return manifest("v1", "Service", name, {"selector": {"app": name}, "ports": [{"port": port, "targetPort": 8000}]})


def manifest(version: str, kind: str, name: str, spec: Mapping[str, Any]) -> str:
    """One document, with the line that ends it."""
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
    return yaml.safe_dump(body) + "---\n"


@dataclass(frozen=True, slots=True)
class Product:
    """A cluster with Envoy Gateway and the chart."""

    cluster: Cluster
    helm: Helm

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """Change the chart's values to these, and wait until its Pods are ready."""
        place = (RELEASE, str(CHART), "--namespace", SYSTEM, "--reset-values", "--wait", "--timeout=120s")
        self.helm("upgrade", *place, values=values)

    def space(self) -> "Space":
        """A namespace that is nobody else's."""
        name = f"test-{next(_NUMBERS)}"
        self.cluster.kubectl("create", "namespace", name)
        return Space(self.cluster, name)


@contextmanager
def running_product(folder: Path, values: Mapping[str, Any] | None = None, say: Say = print) -> Iterator[Product]:
    """A cluster of its own, ready for pools; it ends with the block."""
    programs = builds.ensure(say=say)
    images = {**gateway_images(programs), IMAGE: product_image()}
    with running_cluster(folder / "cluster", runtime(folder / "images.json", images), say) as cluster:
        helm = Helm(programs["helm"], cluster.server.kubeconfig, folder / "helm")
        try:
            gateway.install(helm, builds.envoy_gateway_chart())
            place = (RELEASE, str(CHART), "--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout=90s")
            helm("install", *place, values=dict(values or {}))
            yield Product(cluster, helm)
        except BaseException:
            say(f"what the cluster says: {diagnostics.dump(cluster.kubectl, folder / 'cluster/logs', folder / 'dump')}")
            raise


@dataclass(slots=True)
class Space:
    """A namespace of a running product, with ways to fill it, and to ask what came of that."""

    cluster: Cluster
    name: str
    _ports: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def kubectl(self, *words: str, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.cluster.kubectl(*words, "-n", self.name, stdin=stdin)

    def apply(self, *manifests: str | Path) -> None:
        """As users do: client-side apply."""
        for one in manifests:
            text = one.read_text() if isinstance(one, Path) else one
            self.kubectl("apply", "-f", "-", stdin=text)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object of the namespace. Raises KubectlFailed."""
        return self.cluster.kubectl.get(kind, name, self.name)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Those with these labels that are not on their way out."""
        found = self.cluster.kubectl.list("pods", self.name, selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, deployment: str, replicas: int | None = None) -> None:
        """Wait until a Deployment has exactly as many ready Pods as it should; scales it first when told to."""
        if replicas is not None:
            self.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}")
        self.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={READY_S:.0f}s")

    def until(self, is_so: Any, what: str, within: float = READY_S) -> None:
        """Poll; an object that is not there counts as not so. Raises TimeoutError."""
        self.cluster.kubectl.until(is_so, within, what)

    def base(self, of: str, port: int) -> str:
        """Where a Gateway's port is for a client here, once there is a Service for it: `http://127.0.0.1:...`."""
        owner = f"gateway.envoyproxy.io/owning-gateway-name={of}"
        place = f"gateway.envoyproxy.io/owning-gateway-namespace={self.name}"

        def found() -> list[str]:
            services = self.cluster.kubectl.list("services", gateway.NAMESPACE, f"{owner},{place}")
            ports = [one["port"] for each in services for one in each["spec"]["ports"]]
            return [each["metadata"]["name"] for each in services] if port in ports else []

        self.until(lambda: bool(found()), f"Envoy's Service has port {port}")
        return self._forwarded(gateway.NAMESPACE, found()[0], port)

    def chats(self, of: str, port: int) -> str:
        """The URL of chat completions on a Gateway's port."""
        return f"{self.base(of, port)}/v1/chat/completions"

    def picker(self, of: str, listener: str) -> "Picker":
        """The picker of a listener."""
        return Picker(self, f"igw-{of}-{listener}")

    def direct(self, pod: Mapping[str, Any], port: int = 8000) -> str:
        """Straight to a Pod, past the gateway."""
        key = (pod["status"]["podIP"], pod["metadata"]["uid"], port)
        if key not in self._ports:
            self._ports[key] = self.cluster.machine.forward(key[0], port)
        return f"http://127.0.0.1:{self._ports[key]}"

    def conditions(self, kind: str, name: str) -> dict[str, tuple[str, str, str]]:
        """Type -> (status, reason, message): of a pool those of its first parent, else the object's own."""
        status = self.get(kind, name).get("status", {})
        parents = status.get("parents") or status.get("parent") or [status]
        found = parents[0].get("conditions", ())
        return {one["type"]: (one["status"], one["reason"], one["message"]) for one in found}

    def reason(self, kind: str, name: str, condition: str = "Accepted") -> str:
        """The reason of a condition; empty where there is none."""
        return self.conditions(kind, name).get(condition, ("", "", ""))[1]

    def versions(self) -> dict[str, str]:
        """The version of each object that the operator made here, by kind and name."""
        kinds = ",".join(kind for kind in OWN_KINDS if kind != "endpointslice")
        found = self.cluster.kubectl.list(kinds, self.name, MANAGED)
        return {f"{one['kind']}/{one['metadata']['name']}": _version(one) for one in found}

    def restart_operator(self) -> None:
        """Replace all Pods of the operator, and wait until the new ones have begun to work."""
        self.cluster.kubectl("rollout", "restart", f"deployment/{OPERATOR}", "-n", SYSTEM)
        self.cluster.kubectl("rollout", "status", f"deployment/{OPERATOR}", "-n", SYSTEM, f"--timeout={READY_S:.0f}s")

    def operator_metric(self, name: str) -> list[float]:
        """The values of a metric's series, over all Pods of the operator."""
        pods = self.cluster.kubectl.list("pods", SYSTEM, "app.kubernetes.io/component=operator")
        return [value for pod in pods for value in _metric(f"{self.direct(pod, 8080)}/metrics", name)]

    def remove(self) -> None:
        """Delete the namespace with all in it; does not wait."""
        self.cluster.kubectl("delete", "namespace", self.name, "--wait=false")

    def _forwarded(self, namespace: str, name: str, port: int) -> str:
        key = (namespace, name, port)
        if key not in self._ports:
            self._ports[key] = self.cluster.forward(*key)
        return f"http://127.0.0.1:{self._ports[key]}"


@dataclass(slots=True)
class Picker:
    """The picker's Deployment of one listener."""

    space: Space
    deployment: str

    def pods(self) -> list[dict[str, Any]]:
        """Its Pods that are not on their way out."""
        return self.space.pods(f"{wire.PICKER_LABEL}={self.deployment}")

    def until_ready(self) -> None:
        """Wait until it has a ready Pod."""
        self.space.until(lambda: any(is_ready(pod) for pod in self.pods()), f"{self.deployment} is ready")

    def kill(self) -> None:
        """Its Pods are gone at once, as when their node is lost."""
        selector = f"{wire.PICKER_LABEL}={self.deployment}"
        self.space.kubectl("delete", "pods", "-l", selector, "--grace-period=0", "--force", "--wait=false")

    def metric(self, name: str) -> list[float]:
        """The values of a metric's series, over all its ready Pods."""
        pods = [pod for pod in self.pods() if is_ready(pod)]
        return [value for pod in pods for value in _metric(f"{self.space.direct(pod, 9090)}/metrics", name)]

    def placed(self) -> float:
        """How many requests it has placed."""
        return sum(self.metric("igw_picker_placed_total"))

    def until_sees(self, engines: int) -> None:
        """Wait until it knows so many engines, all of which answer."""
        name = "igw_picker_endpoint_available"
        self.space.until(lambda: self.metric(name) == [1.0] * engines, f"{self.deployment} sees {engines} engines")

    def until_metric(self, name: str, *, above: float) -> None:
        """Wait until one of a metric's series is above a value."""
        self.space.until(lambda: any(value > above for value in self.metric(name)), f"{name} above {above}")

    def until_asked(self, url: str) -> None:
        """Wait until Envoy asks it, by its own count of requests."""

        def asked() -> bool:
            before = self.metric("igw_picker_requests_total")
            post(url, chat_body("Who?", tokens=1, model="nobody-serves-this"))
            return sum(self.metric("igw_picker_requests_total")) > sum(before)

        self.space.until(asked, f"Envoy asks {self.deployment}")


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a Pod's condition says so."""
    found = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found)


def post(url: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and JSON body; (0, {}) while nobody answers, and no body where it is not JSON."""
    given = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, json.dumps(dict(body)).encode(), given)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, _document(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _document(error.read())
    except OSError:
        return 0, {}


def _document(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _version(body: Mapping[str, Any]) -> str:
    """The generation where there is one: controllers write statuses at any time."""
    metadata = body["metadata"]
    return f"{metadata['uid']} {metadata.get('generation') or metadata['resourceVersion']}"


def _metric(url: str, name: str) -> list[float]:
    with urllib.request.urlopen(url, timeout=5) as page:
        families = text_string_to_metric_families(page.read().decode())
    return [one.value for family in families for one in family.samples if one.name == name]
