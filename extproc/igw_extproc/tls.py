"""The picker's certificate: read from files, and once more for a connection that comes after they were replaced.

What cannot be used leaves in force what was. Connections that stand keep what they began with. Called by `server`, for
both transports.
"""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import grpc

log = logging.getLogger(__name__)

PROTOCOLS: Final = ["h2"]


class Unusable(Exception):
    """No server can use these files. The message names the options."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. `client_authorities`: who signs the certificates that clients must have; None: they need none."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None

    @property
    def state(self) -> tuple[tuple[int, int, int], ...]:
        """What differs once one of them was replaced. Raises OSError."""
        stats = [path.stat() for path in (self.certificate, self.key, self.client_authorities) if path is not None]
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in stats)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For asyncio: each connection gets what the files hold when it begins. Raises OSError, Unusable."""
    latest = _Latest(files, _context)
    context = latest.value

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = latest.look()

    context.sni_callback = choose
    return context


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """The same for grpc. Raises OSError, Unusable."""
    latest = _Latest(files, _grpc_configuration)
    return grpc.dynamic_ssl_server_credentials(latest.value, latest.look, files.client_authorities is not None)


Made = TypeVar("Made")


class _Latest(Generic[Made]):
    """What `make` makes of the files, made anew when they have changed."""

    def __init__(self, files: TlsFiles, make: Callable[[TlsFiles], Made]) -> None:
        self._files = files
        self._make = make
        self._state = files.state
        self.value = make(files)

    def look(self) -> Made:
        """The value for a connection that begins now."""
        try:
            state = self._files.state
            if state != self._state:
                self._state = state
                self.value = self._make(self._files)
                log.info("certificate replaced file=%s", self._files.certificate)
        except (OSError, Unusable) as error:
            log.warning("certificate not replaced reason=%s", error)
        return self.value


def _context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(PROTOCOLS)
    # A resumed session would keep what an earlier certificate of the client has earned.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # Without a password OpenSSL would ask on the terminal for that of an encrypted key.
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError:
        message = "--tls-certificate and --tls-key: not a certificate and its key in PEM form"
        raise Unusable(message) from None
    if files.client_authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(files.client_authorities)
        except ssl.SSLError:
            raise Unusable("--tls-client-ca: no certificates in PEM form") from None
    return context


def _grpc_configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    _context(files)  # grpc would find a mistake only when a client comes
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    trusted = files.client_authorities.read_bytes() if files.client_authorities is not None else None
    return grpc.ssl_server_certificate_configuration([pair], trusted)
