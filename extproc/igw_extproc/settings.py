"""The picker's settings: what the command line decides once. Everything else comes from the objects, live."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from igw_api.objects import Key


class TransportName(StrEnum):
    """http2: our own, for Envoy. grpc: grpc.aio, for any client."""

    HTTP2 = "http2"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class Settings:
    """Frozen after start. A test pins every default."""

    # Where the objects come from: files, or else this ConfigMap.
    objects: tuple[Path, ...] = ()
    kubernetes: Key | None = None
    kubeconfig: Path | None = None  # None: the Pod's own account
    # Loopback: in standalone mode only our own Envoy has business here.
    host: str = "127.0.0.1"
    # 9002 and 9090 are the endpoint picker protocol's customary ports. 0: the system chooses.
    port: int = 9002
    metrics_port: int = 9090
    transport: TransportName = TransportName.HTTP2
    policy: str = "prefix-cache"
    # Only full-duplex streams are held whole; 32 MiB is eight million tokens of text.
    max_body_bytes: int = 32 * 1024 * 1024
    # Seconds from the first SIGTERM to the end: the proxy notices by its health check within two.
    drain_seconds: float = 3.0
    # PEM files, the first two together; None: plain text. The third: who signs the certificates that clients must have.
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
