"""Certificates for tests: an authority of its own in each folder, pairs that it signs, and how they reach a program."""

import ssl
from pathlib import Path
from typing import Any

import yaml
from cryptography.x509.oid import NameOID

from igw_cluster.credentials import Authority

PAIR = ("tls.crt", "tls.key")


def authority(folder: Path) -> Authority:
    """One that writes to a new folder: `ca.crt` now, and each pair that it signs."""
    folder.mkdir(parents=True)
    return Authority(folder)


def sign(one: Authority, *names: str) -> Path:
    """Write `tls.crt` and `tls.key`, new ones, for a server of these names. Returns the folder."""
    one.sign("tls", {NameOID.COMMON_NAME: names[0]}, names)
    return one.folder


def secret(folder: Path, name: str = "web", **more: str) -> str:
    """The pair of a folder as the Secret that Kubernetes has for it."""
    data = {file: (folder / file).read_text() for file in PAIR}
    body: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    return yaml.safe_dump({**body, "type": "kubernetes.io/tls", "stringData": {**data, **more}})


def trusting(folder: Path, *protocols: str) -> ssl.SSLContext:
    """A client that trusts the folder's authority and nobody else."""
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def put(folder: Path, source: Path, *names: str) -> None:
    """Replace files of `folder` by those of another, each by one rename."""
    for name in names:
        fresh = folder / f".{name}"
        fresh.write_bytes((source / name).read_bytes())
        fresh.rename(folder / name)
