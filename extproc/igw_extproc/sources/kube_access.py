"""How to reach the Kubernetes API: server, trust and token, from a kubeconfig or from what every Pod is given.

Called by `kube_api`, in a thread: everything here reads files. Read again and again, since tokens are replaced on disk
before they expire.
"""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from igw_api.objects import join_host_port

# Where the kubelet puts them, in every Pod that has a ServiceAccount.
ACCOUNT_FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class NoAccess(ValueError):
    """There is no usable kubeconfig, nor are we in a Pod. The text says what is missing."""


@dataclass(frozen=True, slots=True)
class Access:
    """`server` is a URL without a slash at its end. No `tls`: plain HTTP. No `token`: the certificate speaks."""

    server: str
    tls: ssl.SSLContext | None = None
    token: str | None = None


def load(kubeconfig: Path | None) -> Access:
    """From that file, else from this Pod's account. Raises NoAccess."""
    return in_pod(os.environ, ACCOUNT_FOLDER) if kubeconfig is None else from_file(kubeconfig)


def in_pod(environment: Mapping[str, str], folder: Path) -> Access:
    """As a Pod is told: the server by `environment`, trust and token in `folder`. Raises NoAccess."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port.isdecimal():
        raise NoAccess("not in a Pod (KUBERNETES_SERVICE_HOST is not set), and no --kubeconfig")
    try:
        token = (folder / "token").read_text().strip()
        context = _context((folder / "ca.crt").read_text(), None, "", True)
    except (OSError, ValueError) as error:
        raise NoAccess(f"this Pod's account cannot be read: {error}") from error
    return Access(f"https://{join_host_port(host, int(port))}", context, token)


def from_file(kubeconfig: Path) -> Access:
    """The current context of a kubeconfig, in any way that Kubernetes' own client knows. Raises NoAccess."""
    # Takes a third of a second and twenty megabytes, which no Pod needs.
    from kubernetes import client, config  # noqa: PLC0415

    told = client.Configuration()
    read: Any = config.load_kube_config  # has no types
    try:
        read(str(kubeconfig), client_configuration=told, persist_config=False)
        if told.host.startswith("http://"):
            return Access(told.host.rstrip("/"), None, _bearer(told))
        authority = Path(told.ssl_ca_cert).read_text() if told.ssl_ca_cert else ""
        certificate = (told.cert_file, told.key_file) if told.cert_file and told.key_file else None
        stamp = "".join(Path(one).read_text() for one in certificate or ())
        context = _context(authority, certificate, stamp, bool(told.verify_ssl))
    except Exception as error:
        # The library lets through whatever a wrong file makes YAML, base64 or its own code raise.
        raise NoAccess(f"{kubeconfig}: {' '.join(str(error).split())}") from error
    return Access(told.host.rstrip("/"), context, _bearer(told))


def _bearer(told: Any) -> str | None:
    """The token in what the library made a header of."""
    keys: Mapping[str, str] = told.api_key
    header = keys.get("authorization") or keys.get("BearerToken") or ""
    return header.partition(" ")[2] or None


@lru_cache(8)
def _context(authority: str, certificate: tuple[str, str] | None, stamp: str, verify: bool) -> ssl.SSLContext:
    """One context for the same files' contents, so that connections are shared. `stamp`: the certificate's."""
    context = ssl.create_default_context(cadata=authority or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context
