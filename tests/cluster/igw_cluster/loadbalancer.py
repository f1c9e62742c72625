"""The stand-in for a cloud's load balancers: gives each Service of type LoadBalancer an address.

kube-proxy does the rest: whoever is inside the machine reaches the Service at that address. The address is made from
the Service's ClusterIP, so nothing is remembered and no two are the same. Runs as a program inside the machine:
`python -m igw_cluster.loadbalancer --kubeconfig FILE`.
"""

import argparse
import base64
import http.client
import json
import logging
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

_LOG: Final = logging.getLogger("igw_cluster.loadbalancer")
_WATCH_S: Final = 240
_PAUSE_S: Final = 0.5


def address_of(cluster_ip: str) -> str:
    """10.96.x.y -> 10.97.x.y: a network of the same size beside that of the ClusterIPs."""
    first, second, third, fourth = cluster_ip.split(".")
    return f"{first}.{int(second) + 1}.{third}.{fourth}"


def wanted_status(service: Mapping[str, Any]) -> dict[str, Any] | None:
    """The change that a Service's status needs; None if there is nothing to do."""
    spec, status = service["spec"], service.get("status", {})
    if spec.get("type") != "LoadBalancer" or not spec.get("clusterIP", "").count("."):
        return None
    ingress = [{"ip": address_of(spec["clusterIP"])}]
    has = [{"ip": one.get("ip")} for one in status.get("loadBalancer", {}).get("ingress", [])]
    return None if has == ingress else {"status": {"loadBalancer": {"ingress": ingress}}}


class Balancer:
    """Watches all Services and writes the status of those that wait for an address."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self._token = config["users"][0]["user"]["token"]

    def run(self) -> None:
        """Until the process ends. A lost connection or an expired watch starts anew with a list."""
        while True:
            try:
                for service in self._services():
                    self._give(service)
            # An answer cut short is a ValueError or an HTTPException, a refused connection an OSError.
            except (OSError, ValueError, http.client.HTTPException) as error:
                _LOG.warning("watch_ended reason=%s", error)
            time.sleep(_PAUSE_S)

    def _services(self) -> Iterator[dict[str, Any]]:
        """All that there are, then each that changes."""
        with self._call("/api/v1/services") as answer:
            listed = json.load(answer)
        yield from listed["items"]
        version = listed["metadata"]["resourceVersion"]
        path = f"/api/v1/services?watch=1&resourceVersion={version}&timeoutSeconds={_WATCH_S}"
        with self._call(path, within=_WATCH_S + 10) as answer:
            for line in answer:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
                elif event["type"] == "ERROR":
                    return

    def _give(self, service: Mapping[str, Any]) -> None:
        change = wanted_status(service)
        if change is None:
            return
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        path = f"/api/v1/namespaces/{namespace}/services/{name}/status"
        try:
            self._call(path, json.dumps(change).encode()).close()
        except urllib.error.HTTPError as error:
            if error.code != 404:  # gone in the meantime
                raise
        else:
            _LOG.info("address_given service=%s/%s status=%s", namespace, name, change)

    def _call(self, path: str, patch: bytes | None = None, within: float = 10.0) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        if patch is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        method = "GET" if patch is None else "PATCH"
        request = urllib.request.Request(f"{self._server}{path}", data=patch, headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=within, context=self._tls)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    Balancer(parser.parse_args().kubeconfig).run()
