"""What the operator and a kubelet would put into an API server for a picker: a ConfigMap, rights, Pods with a status.

Written through the API, as they do; the picker's process sees nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from igw_api.objects import Key, Pool
from igw_api.objectset import ObjectSet, dump
from igw_cluster.apiserver import ApiServer
from igw_cluster.credentials import ADMIN

RIGHTS = """
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}, namespace: {namespace}}}
rules:
- {{apiGroups: [""], resources: [configmaps], resourceNames: [{name}], verbs: [get, list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}]
"""
RIGHTS_ON_PODS = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {name}, namespace: {pods}}}
rules:
- {{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}, namespace: {pods}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}
subjects: [{{kind: ServiceAccount, name: {name}, namespace: {namespace}}}]
"""


def pool_of(namespace: str, name: str, port: int = 8000) -> Pool:
    """A pool that selects the Pods labelled with its name."""
    return Pool(Key(namespace, name), {"app": name}, (port,))


@dataclass(slots=True)
class Api:
    """The administrator's requests, fast enough to measure delays against."""

    server: ApiServer
    session: aiohttp.ClientSession

    @classmethod
    def of(cls, server: ApiServer) -> Self:
        """To be closed, as an async context."""
        headers = {"Authorization": f"Bearer {server.credentials.tokens[ADMIN]}"}
        return cls(server, aiohttp.ClientSession(server.url, headers=headers))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self.session.close()

    async def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> dict[str, Any]:
        """One request, which must succeed."""
        data = None if body is None else json.dumps(body)
        # The path to loopback is not what is tested here.
        async with self.session.request(method, path, data=data, headers={"Content-Type": kind}, ssl=False) as answer:
            told: dict[str, Any] = await answer.json()
            assert answer.status < 300, f"{method} {path}: {told.get('message')}"
            return told

    async def configure(self, name: Key, objects: ObjectSet | str) -> None:
        """Write the ConfigMap, as the operator does."""
        text = objects if isinstance(objects, str) else dump(objects).decode()
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name.name},
            "data": {"objects.json": text},
        }
        query = "?fieldManager=inference-gateway&force=true"
        path = f"/api/v1/namespaces/{name.namespace}/configmaps/{name.name}{query}"
        await self.call("PATCH", path, body, "application/apply-patch+yaml")

    async def make_pod(self, key: Key, labels: Mapping[str, str], **annotations: str) -> None:
        """A Pod that waits for its kubelet. It names a node, so that its deletion takes two steps."""
        spec = {"nodeName": "nowhere", "containers": [{"name": "engine", "image": "none"}]}
        metadata = {"name": key.name, "labels": dict(labels), "annotations": annotations}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        await self.call("POST", f"/api/v1/namespaces/{key.namespace}/pods", body)

    async def set_ready(self, key: Key, address: str, ready: bool = True) -> None:
        """What the kubelet tells of a Pod."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}
        await self.call("PATCH", f"{_pod(key)}/status", {"status": status}, "application/strategic-merge-patch+json")

    async def delete_pod(self, key: Key, grace: int = 30) -> None:
        """Begin its deletion; without grace, end it at once."""
        await self.call("DELETE", f"{_pod(key)}?gracePeriodSeconds={grace}")

    async def make_ready_pods(self, namespace: str, app: str, addresses: Sequence[str]) -> list[Key]:
        """Pods that serve."""
        keys = [Key(namespace, f"{app}-{number}") for number in range(len(addresses))]
        for key, address in zip(keys, addresses, strict=True):
            await self.make_pod(key, {"app": app})
            await self.set_ready(key, address)
        return keys


def _pod(key: Key) -> str:
    return f"/api/v1/namespaces/{key.namespace}/pods/{key.name}"
