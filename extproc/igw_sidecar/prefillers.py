"""Who may be asked to compute a prompt. Pure: text in, an address or a refusal out; no name is ever resolved.

The header that names a prefiller comes from the picker: Envoy removes a client's. The list of networks is what remains
if somebody reaches the sidecar past Envoy: it then cannot be made to send a prompt out of the cluster, or a request to
a cloud's metadata service.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Network = IPv4Network | IPv6Network

# Where Pods and machines of one site are: RFC 1918, RFC 6598, unique local, and loopback for engines on one machine.
# Link-local is left out, for 169.254.169.254.
PRIVATE: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "fc00::/7",
        "::1/128",
    )
)


class NotAllowed(ValueError):
    """No address, or one that may not be asked. `str(error)` says which, for the log and the client."""


@dataclass(frozen=True, slots=True)
class Prefiller:
    """An address; `host` is an IP address, without brackets."""

    host: str
    port: int

    @property
    def bracketed(self) -> str:
        """The host as it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"


def parse(header: str, allowed: Iterable[Network]) -> Prefiller:
    """The prefiller that a header names: "ip:port", the first one if there are several. NotAllowed for all else."""
    text = header.split(",", 1)[0].strip()
    host, colon, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port) if port.isascii() and port.isdigit() else 0
    except ValueError:
        raise NotAllowed("The prefiller is not named as ip:port.") from None
    if not colon or not 0 < number < 65536:
        raise NotAllowed("The prefiller is not named as ip:port.")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if not any(address.version == network.version and address in network for network in allowed):
        raise NotAllowed(f"Prefiller {address} is in none of the networks that --allow-prefillers names.")
    return Prefiller(str(address), number)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks, or single addresses. ValueError names the wrong one."""
    return tuple(_network(text) for text in texts)


def _network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(f"{text}: neither an address nor a network such as 10.0.0.0/8") from None
