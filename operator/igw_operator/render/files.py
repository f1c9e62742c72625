"""The pieces that all of Envoy's files share: names, sources, durations, typed extensions. Pure.

Files are protobuf JSON: Envoy's own classes (envoy-data-plane) give the field names, so that mypy finds a wrong one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import betterproto2
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.service.discovery import v3 as discovery_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api.objects import Key

PICKER_CLUSTER = "picker"
# Of all clients together. Envoy Gateway's own bound is the same.
MOST_CONNECTIONS = 50_000


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port to bind or to reach."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the plan does not say: where things are on this machine.

    `directory` holds the files (absolute). `binds` has an address for each (gateway, port) of the plan.
    """

    directory: str
    admin: Address
    picker: Address
    binds: Mapping[tuple[Key, int], Address]
    access_log: str | None = None
    authorities: str = ""  # the file with the certificates that this machine trusts
    picker_tls: str | None = None  # the directory with the certificates of Envoy and the picker; None: plain text
    connections: int = MOST_CONNECTIONS  # that clients may have open together
    heap: int | None = None  # bytes that Envoy may take; None: any


def seconds(value: float | None) -> timedelta | None:
    """A duration, or None where there is none."""
    return None if value is None else timedelta(seconds=value)


def typed(name: str, config: betterproto2.Message) -> core_v3.TypedExtensionConfig:
    """A named extension with its configuration."""
    return core_v3.TypedExtensionConfig(name=name, typed_config=PackedAny.pack(config))


def socket_address(address: Address) -> core_v3.Address:
    """An address as Envoy writes it."""
    return core_v3.Address(socket_address=core_v3.SocketAddress(address=address.host, port_value=address.port))


def file_source(directory: str, name: str) -> core_v3.ConfigSource:
    """Configuration from a file of ours. Envoy takes it anew when a file is moved onto it."""
    return core_v3.ConfigSource(
        path_config_source=core_v3.PathConfigSource(path=f"{directory}/{name}"),
        resource_api_version=core_v3.ApiVersion.V3,
    )


def file_name(kind: str, resource: str) -> str:
    """The file of one resource. Kubernetes names have no underscore, so no two resources share a file."""
    return f"{kind}_{resource.replace('/', '_')}.json"


def resources(*items: betterproto2.Message) -> str:
    """A discovery answer with these resources."""
    return text(discovery_v3.DiscoveryResponse(resources=[PackedAny.pack(item) for item in items]))


def text(message: betterproto2.Message) -> str:
    """The file's text: stable, so that equal configuration means equal files."""
    # The classes spell `consecutive_5xx` in JSON as Envoy does not read it.
    return json.dumps(message.to_dict(casing=betterproto2.Casing.SNAKE), indent=1).replace('_5_xx": ', '_5xx": ') + "\n"
