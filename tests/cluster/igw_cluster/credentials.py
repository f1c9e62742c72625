"""Who may call the API server: one certificate authority, the server's certificate, a bearer token for each user.

Made anew for each cluster, and thrown away with it.
"""

import base64
import datetime
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN: Final = "admin"
# Users by the names that Kubernetes' own RBAC roles are bound to, and their groups.
_USERS: Final[Mapping[str, str]] = {
    ADMIN: "system:masters",
    "system:kube-controller-manager": "system:authenticated",
    "system:kube-scheduler": "system:authenticated",
    "system:kube-proxy": "system:authenticated",
    "system:node:local": "system:nodes",
}
_DAYS: Final = datetime.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The files in `folder`, by purpose, and the tokens by user."""

    folder: Path
    tokens: Mapping[str, str]

    def __getitem__(self, file: str) -> Path:
        """One file: `ca`, `server`, `client` with `.crt` and `.key`, `accounts.key`, `accounts.pub`, `tokens.csv`."""
        return self.folder / file

    def kubeconfig(self, user: str, server: str, name: str | None = None) -> Path:
        """A kubeconfig file for a user by its token; `server` is a URL."""
        place = self.folder / f"{name or user.replace(':', '-')}.kubeconfig"
        return write_kubeconfig(place, server, self["ca.crt"], self.tokens[user])


def write_kubeconfig(place: Path, server: str, authority: Path, token: str) -> Path:
    """A kubeconfig with one cluster and one user, readable by its owner only."""
    data = base64.b64encode(authority.read_bytes()).decode()
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "igw",
        "clusters": [{"name": "igw", "cluster": {"server": server, "certificate-authority-data": data}}],
        "users": [{"name": "igw", "user": {"token": token}}],
        "contexts": [{"name": "igw", "context": {"cluster": "igw", "user": "igw"}}],
    }
    place.touch(mode=0o600)
    place.write_text(json.dumps(text, indent=1) + "\n")
    return place


def make(folder: Path, names: Iterable[str]) -> Credentials:
    """Create all of it. `names`: what the server is called, IP addresses or DNS names."""
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    authority = Authority(folder)
    authority.sign("server", {NameOID.COMMON_NAME: "kube-apiserver"}, names)
    # The API server shows it to the kubelet, for logs and exec.
    client = {NameOID.ORGANIZATION_NAME: "system:masters", NameOID.COMMON_NAME: "kube-apiserver-kubelet-client"}
    authority.sign("client", client)
    public = _write_key(folder / "accounts.key").public_key()
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "accounts.pub").write_bytes(public.public_bytes(*form))
    tokens = {user: secrets.token_urlsafe(24) for user in _USERS}
    (folder / "tokens.csv").write_text(
        "".join(f'{tokens[user]},{user},{user},"{group}"\n' for user, group in _USERS.items())
    )
    return Credentials(folder, tokens)


class Authority:
    """Signs what is made in one folder: `ca.crt` is its own certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = _write_key(folder / "ca.key")
        self.name = _name({NameOID.COMMON_NAME: "igw-cluster"})
        only_signs = x509.BasicConstraints(ca=True, path_length=None)
        self._write("ca", self._draft(self.name, self.key).add_extension(only_signs, critical=True))

    def sign(self, file: str, subject: Mapping[x509.ObjectIdentifier, str], names: Iterable[str] = ()) -> None:
        """`<file>.crt` and `<file>.key`: for a client, and with `names` for a server of these too."""
        known = [_general_name(name) for name in names]
        draft = self._draft(_name(subject), _write_key(self.folder / f"{file}.key"))
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if known else [])]
        draft = draft.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if known:
            draft = draft.add_extension(x509.SubjectAlternativeName(known), critical=False)
        self._write(file, draft)

    def _draft(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + _DAYS)
        )

    def _write(self, file: str, draft: x509.CertificateBuilder) -> None:
        signed = draft.sign(self.key, hashes.SHA256())
        (self.folder / f"{file}.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _write_key(place: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    place.write_bytes(key.private_bytes(*form))
    return key


def _name(parts: Mapping[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in parts.items()])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
