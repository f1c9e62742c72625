"""The API server, as far as the operator speaks to it: get, list, apply, patch, create, delete. Plain dicts.

Connections, TLS and tokens are the `kubernetes` package's. Every call has a deadline. Whatever goes wrong is an
ApiError: the caller decides what may be tried again. Every write is counted by kind and result.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

import aiohttp
import kopf
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from igw_api.objects import Key
from igw_api.wire import FIELD_MANAGER
from igw_operator.controller.resources import Resource
from igw_operator.controller.store import Body, Listing, key_of

TIMEOUT: Final = 15.0
UNREACHABLE: Final = 0
PAGE: Final = 500
APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
# Names, labels and uids only: a tenth of the bytes.
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_ALL_KINDS: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

Count = Callable[[str, str, str], None]  # verb, kind, result


class ApiError(Exception):
    """A call that failed. `status` is HTTP's, or 0 where there was no answer; `message` is one line."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later without anybody's doing."""
        return self.status in (UNREACHABLE, 409, 429) or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class NoAccess(Exception):
    """The kubeconfig, or the service account, cannot be used. The message is one line."""


async def credentials(kubeconfig: Path | None) -> Configuration:
    """Where the API server is and how to log in. Without a kubeconfig: those of this Pod. Raises NoAccess."""
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        else:
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig), client_configuration=configuration
            )
    except ConfigException as error:
        where = f"--kubeconfig {kubeconfig}" if kubeconfig else "not in a cluster (use --kubeconfig FILE)"
        raise NoAccess(f"{where}: {' '.join(str(error).split())}") from error
    return configuration


async def connection_info(configuration: Configuration) -> kopf.ConnectionInfo:
    """The same for kopf. Asked again whenever the API server refuses the token."""
    login = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (login or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )


@dataclass(slots=True)
class Kube:
    """One connection pool to the API server."""

    client: ApiClient
    count: Count

    async def close(self) -> None:
        """Close all connections."""
        await self.client.close()  # type: ignore[no-untyped-call]

    async def get(self, resource: Resource, key: Key) -> Body | None:
        """The object, or None if there is none of that name. Raises ApiError."""
        try:
            return await self.call("GET", resource.path(key))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def served(self) -> frozenset[tuple[str, str, str]]:
        """Every kind that the API server knows beyond the core: group, version and plural. Raises ApiError."""
        groups = await self.call("GET", "/apis", accept=_ALL_KINDS)
        return frozenset(
            (group["metadata"]["name"], version["version"], resource["resource"])
            for group in groups.get("items") or []
            for version in group["versions"]
            for resource in version.get("resources", [])
        )

    async def uids(self, resource: Resource) -> Listing:
        """The uid of every object that is watched. Raises ApiError."""
        found: dict[Key, str] = {}
        query = {"limit": str(PAGE), **({"labelSelector": resource.selector} if resource.selector else {})}
        while True:
            page = await self.call("GET", resource.path(), query, accept=_METADATA_ONLY)
            found |= {key_of(item): item["metadata"].get("uid", "") for item in page.get("items") or []}
            more = page.get("metadata", {}).get("continue")
            if not more:
                return found
            query["continue"] = more

    async def apply(self, resource: Resource, manifest: Mapping[str, Any], *, force: bool) -> Body:
        """Server-side apply with our field manager. Without `force`, fields that others own are a conflict."""
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        return await self._write("apply", resource, key_of(manifest), "PATCH", query=query, body=manifest, kind=APPLY)

    async def patch_status(self, resource: Resource, key: Key, patch: Mapping[str, Any]) -> Body:
        """Merge into the status subresource. With a resourceVersion in it, only into that version."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._write("status", resource, key, "PATCH", "status", query=query, body=patch, kind=MERGE)

    async def create(self, resource: Resource, key: Key, manifest: Mapping[str, Any]) -> Body:
        """Create it; the name may be left to the API server."""
        path = resource.path(key).rpartition("/")[0]
        return await self._counted("create", resource, self.call("POST", path, {}, body=manifest))

    async def delete(self, resource: Resource, key: Key, uid: str) -> Body | None:
        """Delete exactly the object with this uid. Returns it as long as something holds it, else None."""
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        call = self.call("DELETE", resource.path(key), {}, body=options)
        try:
            answer = await self._counted("delete", resource, call)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        # Of some kinds the answer is what was deleted, though it is gone already.
        is_held = answer.get("kind") == resource.kind and "deletionTimestamp" in answer["metadata"]
        return answer if is_held else None

    async def _write(
        self, verb: str, resource: Resource, key: Key, method: str, part: str = "", **request: Any
    ) -> Body:
        path = resource.path(key, part)
        call = self.call(method, path, request["query"], body=request["body"], content_type=request["kind"])
        return await self._counted(verb, resource, call)

    async def _counted(self, verb: str, resource: Resource, call: Any) -> Body:
        try:
            answer = await call
        except ApiError as error:
            self.count(verb, resource.kind, str(error.status or "unreachable"))
            raise
        self.count(verb, resource.kind, "ok")
        return cast(Body, answer)

    async def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Body:
        """One request and its JSON answer. Raises ApiError."""
        url = self.client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept, "Content-Type": content_type}
        for one in (await self.client.configuration.auth_settings()).values():
            headers[one["key"]] = one["value"]
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self.client.rest_client.request(  # type: ignore[no-untyped-call]
                    method, url, headers=headers, body=body
                )
                text = await answer.read()
        except TimeoutError as error:
            raise ApiError(UNREACHABLE, f"no answer from the API server within {TIMEOUT:g} s") from error
        except aiohttp.ClientError as error:
            raise ApiError(UNREACHABLE, f"the API server cannot be reached: {error}") from error
        return _parsed(answer.status, text)


def _parsed(status: int, text: bytes) -> Body:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if status >= HTTPStatus.BAD_REQUEST or not isinstance(content, dict):
        message = content.get("message") if isinstance(content, dict) else None
        raise ApiError(status, " ".join(str(message or f"HTTP status {status}").split()))
    return cast(Body, content)
