"""TLS, on the gateway's ports and between Envoy and the picker: certificates from files of their own. Pure.

Keys stand in PEM files that only Envoy's user may read, named by what is in them. What Envoy watches (SDS) only names
such a file, so that a certificate is replaced by one rename, which disturbs no connection. Those between Envoy and the
picker stand in a directory of the user's, which Envoy watches itself.
"""

from collections.abc import Iterator, Mapping

from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector import v3 as inspector_v3
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls_v3
from envoy_data_plane.envoy.type.matcher import v3 as matcher_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api import wire
from igw_api.certificate import AUTHORITIES, CERTIFICATE, PRIVATE_KEY, pem
from igw_api.objects import Key, Secret
from igw_operator.plan.model import Certificate, GatewayPlan, PlannedListener, Terminated
from igw_operator.render.files import Surroundings, file_name, file_source, resources

SOCKET = "envoy.transport_sockets.tls"
# What clients may speak inside; the first that both know.
APPLICATIONS = ["h2", "http/1.1"]
_PAIR, _TRUSTED = "picker/pair", "picker/authorities"


def filter_chains(
    listener: PlannedListener, manager: listener_v3.Filter, around: Surroundings, *, inline: bool
) -> list[listener_v3.FilterChain]:
    """How connections are taken: as they come, or each by the name that it asks for."""
    if not listener.tls:
        return [listener_v3.FilterChain(filters=[manager])]
    return [
        listener_v3.FilterChain(
            filter_chain_match=listener_v3.FilterChainMatch(server_names=[one.hostname]) if one.hostname else None,
            filters=[manager],
            transport_socket=_socket(one, around, inline=inline),
        )
        for one in listener.tls
    ]


def inspectors(listener: PlannedListener) -> list[listener_v3.ListenerFilter]:
    """What reads the name that a client asks for, where it matters."""
    if not listener.tls:
        return []
    config = PackedAny.pack(inspector_v3.TlsInspector())
    return [listener_v3.ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=config)]


def _socket(chain: Terminated, around: Surroundings, *, inline: bool) -> core_v3.TransportSocket:
    context = tls_v3.CommonTlsContext(tls_params=_floor(), alpn_protocols=APPLICATIONS)
    if inline:
        context.tls_certificates = [_pair(one, around) for one in chain.certificates]
    else:
        context.tls_certificate_sds_secret_configs = [
            tls_v3.SdsSecretConfig(
                name=str(one.secret), sds_config=file_source(around.directory, _sds_file(one.secret))
            )
            for one in chain.certificates
        ]
    return core_v3.TransportSocket(
        name=SOCKET, typed_config=PackedAny.pack(tls_v3.DownstreamTlsContext(common_tls_context=context))
    )


def _floor() -> tls_v3.TlsParameters:
    """No TLS before 1.2."""
    return tls_v3.TlsParameters(
        tls_minimum_protocol_version=tls_v3.TlsParametersTlsProtocol.TLSv1_2,
        tls_maximum_protocol_version=tls_v3.TlsParametersTlsProtocol.TLSv1_3,
    )


def certificate_resources(plan: GatewayPlan, around: Surroundings) -> dict[str, str]:
    """The watched file of each certificate, which names the file with it. No key is in here."""
    return {
        _sds_file(one.secret): resources(tls_v3.Secret(name=str(one.secret), tls_certificate=_pair(one, around)))
        for one in _certificates(plan)
    }


def pem_files(plan: GatewayPlan, secrets: Mapping[Key, Secret]) -> dict[str, str]:
    """The files with keys and certificates, for Envoy alone."""
    return {_pem_file(one): pem(secrets[one.secret]) for one in _certificates(plan)}


def _certificates(plan: GatewayPlan) -> Iterator[Certificate]:
    for listener in plan.listeners:
        for chain in listener.tls:
            yield from chain.certificates


def _pair(one: Certificate, around: Surroundings) -> tls_v3.TlsCertificate:
    both = core_v3.DataSource(filename=f"{around.directory}/{_pem_file(one)}")
    return tls_v3.TlsCertificate(certificate_chain=both, private_key=both)


def _sds_file(secret: Key) -> str:
    return file_name("sds", f"tls/{secret}")


def _pem_file(one: Certificate) -> str:
    return f"tls_{one.secret.namespace}_{one.secret.name}_{one.digest}.pem"


def picker_socket(around: Surroundings, *, inline: bool = False) -> core_v3.TransportSocket | None:
    """Envoy shows its certificate, and verifies that the picker's has the picker's name. None: plain text."""
    if around.picker_tls is None:
        return None
    own, trusted = _picker_pair(around.picker_tls), _picker_authorities(around.picker_tls)
    context = tls_v3.CommonTlsContext(tls_params=_floor(), alpn_protocols=["h2"])
    if inline:
        trusted.match_typed_subject_alt_names = [_named(wire.PICKER_HOST)]
        context.tls_certificates, context.validation_context = [own], trusted
    else:
        context.tls_certificate_sds_secret_configs = [_picker_source(around, _PAIR)]
        context.combined_validation_context = tls_v3.CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=tls_v3.CertificateValidationContext(
                match_typed_subject_alt_names=[_named(wire.PICKER_HOST)]
            ),
            validation_context_sds_secret_config=_picker_source(around, _TRUSTED),
        )
    upstream = tls_v3.UpstreamTlsContext(common_tls_context=context, sni=wire.PICKER_HOST)
    return core_v3.TransportSocket(name=SOCKET, typed_config=PackedAny.pack(upstream))


def picker_resources(around: Surroundings) -> dict[str, str]:
    """What Envoy follows for that: where the files are."""
    if around.picker_tls is None:
        return {}
    found = (
        tls_v3.Secret(name=_PAIR, tls_certificate=_picker_pair(around.picker_tls)),
        tls_v3.Secret(name=_TRUSTED, validation_context=_picker_authorities(around.picker_tls)),
    )
    return {file_name("sds", one.name): resources(one) for one in found}


def _picker_source(around: Surroundings, name: str) -> tls_v3.SdsSecretConfig:
    return tls_v3.SdsSecretConfig(name=name, sds_config=file_source(around.directory, file_name("sds", name)))


def _picker_pair(directory: str) -> tls_v3.TlsCertificate:
    return tls_v3.TlsCertificate(
        certificate_chain=core_v3.DataSource(filename=f"{directory}/{CERTIFICATE}"),
        private_key=core_v3.DataSource(filename=f"{directory}/{PRIVATE_KEY}"),
        watched_directory=core_v3.WatchedDirectory(path=directory),
    )


def _picker_authorities(directory: str) -> tls_v3.CertificateValidationContext:
    return tls_v3.CertificateValidationContext(
        trusted_ca=core_v3.DataSource(filename=f"{directory}/{AUTHORITIES}"),
        watched_directory=core_v3.WatchedDirectory(path=directory),
    )


def _named(host: str) -> tls_v3.SubjectAltNameMatcher:
    return tls_v3.SubjectAltNameMatcher(
        san_type=tls_v3.SubjectAltNameMatcherSanType.DNS, matcher=matcher_v3.StringMatcher(exact=host)
    )
