"""Services beyond this gateway that take what a pool cannot: their clusters, the way there, and their keys. Pure.

What belongs to us stays here: our own headers, and whatever a client said of itself, are taken off by a filter of the
cluster, behind every other. Behind that one, another puts on the provider's key, which Envoy reads from a file of its
own, so that it is in no other file and on no other way.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

import betterproto2
from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.http.credential_injector import v3 as injector_v3
from envoy_data_plane.envoy.extensions.filters.http.header_mutation import v3 as header_mutation_v3
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec import v3 as codec_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm_v3
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic import v3 as generic_v3
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls_v3
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream_http_v3
from envoy_data_plane.envoy.type.matcher import v3 as matcher_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api import wire
from igw_api.objects import Key, Secret
from igw_api.standby import CREDENTIAL, VERSION_PATH
from igw_operator.plan.model import GatewayPlan, ProviderCluster
from igw_operator.render.clusters import HTTP_OPTIONS, assignment, limits, tcp_keepalive
from igw_operator.render.files import Address, Surroundings, file_name, file_source, resources, seconds, typed
from igw_operator.render.tls import SOCKET

# Before anything of the request is sent, so that nothing is billed twice.
RETRY_ON: Final = "connect-failure,refused-stream"


def provider_cluster(planned: ProviderCluster, around: Surroundings) -> cluster_v3.Cluster:
    """Where a provider is, whom its certificate must name, and what becomes of headers on the way."""
    provider = planned.provider
    is_address = _is_address(provider.host)
    types = cluster_v3.ClusterDiscoveryType
    return cluster_v3.Cluster(
        name=planned.name,
        type=types.STATIC if is_address else types.LOGICAL_DNS,
        dns_lookup_family=cluster_v3.ClusterDnsLookupFamily.V4_PREFERRED,
        wait_for_warm_on_init=False,  # a name that does not resolve must not keep everything else waiting
        connect_timeout=seconds(planned.connect_timeout),
        load_assignment=assignment(planned.name, [Address(provider.host, provider.port)]),
        circuit_breakers=limits(planned.max_requests),
        typed_extension_protocol_options={HTTP_OPTIONS: PackedAny.pack(_protocol(planned, around))},
        transport_socket=_tls(planned, around) if provider.tls else None,
        upstream_connection_options=cluster_v3.UpstreamConnectionOptions(tcp_keepalive=tcp_keepalive()),
    )


def provider_action(planned: ProviderCluster, idle: float) -> route_v3.RouteAction:
    """The way to a provider: under its own name, and with its own path instead of `/v1`."""
    provider = planned.provider
    return route_v3.RouteAction(
        cluster=planned.name,
        host_rewrite_literal=authority(planned),
        regex_rewrite=matcher_v3.RegexMatchAndSubstitute(
            pattern=matcher_v3.RegexMatcher(regex=f"^{VERSION_PATH}/"), substitution=f"{provider.path}/"
        ),
        timeout=timedelta(0),  # answers take their time; Envoy's default of 15 s would cut them
        idle_timeout=seconds(idle),
        retry_policy=route_v3.RetryPolicy(retry_on=RETRY_ON, num_retries=1),
    )


def authority(planned: ProviderCluster) -> str:
    """The host as a provider expects it: with the port only where it is not the scheme's."""
    provider = planned.provider
    usual = 443 if provider.tls else 80
    return provider.host if provider.port == usual else f"{provider.host}:{provider.port}"


def served_by(name: str) -> list[core_v3.HeaderValueOption]:
    """Tells the client who answered."""
    header = core_v3.HeaderValue(key=wire.SERVED_BY_HEADER, value=name)
    overwrite = core_v3.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return [core_v3.HeaderValueOption(header=header, append_action=overwrite)]


def credential_files(plan: GatewayPlan, secrets: Mapping[Key, Secret]) -> dict[str, str]:
    """The file with each provider's key, for Envoy alone. Names only what `plan` and `secrets` have both."""
    found = {}
    for planned in plan.providers:
        secret = secrets.get(planned.credential) if planned.credential else None
        if secret is not None:
            value = core_v3.DataSource(inline_string=secret.data[CREDENTIAL].strip())
            generic = tls_v3.GenericSecret(secret=value)
            found[_file(planned)] = resources(tls_v3.Secret(name=planned.name, generic_secret=generic))
    return found


def _file(planned: ProviderCluster) -> str:
    return file_name("sds", planned.name)


def _protocol(planned: ProviderCluster, around: Surroundings) -> upstream_http_v3.HttpProtocolOptions:
    filters: list[tuple[str, betterproto2.Message]] = [("envoy.filters.http.header_mutation", _taken_off())]
    if planned.credential is not None:
        filters.append(("envoy.filters.http.credential_injector", _put_on(planned, around)))
    filters.append(("envoy.filters.http.upstream_codec", codec_v3.UpstreamCodec()))
    return upstream_http_v3.HttpProtocolOptions(
        explicit_http_config=upstream_http_v3.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=core_v3.Http1ProtocolOptions()
        ),
        common_http_protocol_options=core_v3.HttpProtocolOptions(idle_timeout=seconds(planned.idle)),
        http_filters=[hcm_v3.HttpFilter(name=name, typed_config=PackedAny.pack(one)) for name, one in filters],
    )


def _taken_off() -> header_mutation_v3.HeaderMutation:
    matchers: Iterable[matcher_v3.StringMatcher] = (
        *(matcher_v3.StringMatcher(prefix=prefix) for prefix in wire.UNTOLD_PREFIXES),
        *(matcher_v3.StringMatcher(exact=name) for name in wire.UNTOLD_HEADERS),
    )
    removals = [
        mutation_v3.HeaderMutation(remove_on_match=mutation_v3.HeaderMutationRemoveOnMatch(key_matcher=one))
        for one in matchers
    ]
    return header_mutation_v3.HeaderMutation(mutations=header_mutation_v3.Mutations(request_mutations=removals))


def _put_on(planned: ProviderCluster, around: Surroundings) -> injector_v3.CredentialInjector:
    source = file_source(around.directory, _file(planned))
    generic = generic_v3.Generic(credential=tls_v3.SdsSecretConfig(name=planned.name, sds_config=source))
    return injector_v3.CredentialInjector(
        overwrite=True, credential=typed("envoy.http.injected_credentials.generic", generic)
    )


def _tls(planned: ProviderCluster, around: Surroundings) -> core_v3.TransportSocket:
    provider = planned.provider
    context = tls_v3.CommonTlsContext()
    if provider.verify:
        kinds = tls_v3.SubjectAltNameMatcherSanType
        named = tls_v3.SubjectAltNameMatcher(
            san_type=kinds.IP_ADDRESS if _is_address(provider.host) else kinds.DNS,
            matcher=matcher_v3.StringMatcher(exact=provider.host),
        )
        trusted = core_v3.DataSource(inline_string=planned.authorities) if planned.authorities else None
        context.validation_context = tls_v3.CertificateValidationContext(
            trusted_ca=trusted or core_v3.DataSource(filename=around.authorities), match_typed_subject_alt_names=[named]
        )
    name = "" if _is_address(provider.host) else provider.host
    return core_v3.TransportSocket(
        name=SOCKET, typed_config=PackedAny.pack(tls_v3.UpstreamTlsContext(common_tls_context=context, sni=name))
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
