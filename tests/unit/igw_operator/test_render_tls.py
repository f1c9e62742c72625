"""Certificates in the plan and in Envoy's files: which are used, which are refused, and that no key is in a file that
others may read.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from igw_api.certificate import fault
from igw_api.objects import Key, Secret
from igw_operator.plan.model import Certificate
from igw_operator.render.bootstrap import everything, resource_files
from igw_operator.render.tls import pem_files
from igw_testing.certificates import PAIR, authority, secret, sign
from igw_testing.gateway_texts import gateway
from igw_testing.plans import listener, objects_of, plan_of, planned, said, surroundings

WEB = Key("default", "web")


def tls(*names: str, hostname: str | None = None) -> dict[str, Any]:
    """What a listener says of it."""
    refs = [{"name": name} for name in names or ("web",)]
    return {"protocol": "HTTPS", "tls": {"certificateRefs": refs}, **({"hostname": hostname} if hostname else {})}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate and its key."""
    return sign(authority(tmp_path_factory.mktemp("pair") / "one"), "gw.example.test")


def data(folder: Path) -> dict[str, str]:
    """The pair as a Secret has it."""
    return {name: (folder / name).read_text() for name in PAIR}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"tls.key": ""}, "has no `tls.key`"),
        ({"tls.crt": " \n"}, "has no `tls.crt`"),
        ({"tls.crt": "x"}, "has no PEM certificate in `tls.crt`, or no unencrypted PEM key in `tls.key`"),
        ({"tls.key": "x"}, "has no PEM certificate in `tls.crt`, or no unencrypted PEM key in `tls.key`"),
    ],
)
def test_a_pair_is_tried_before_it_is_used(pair: Path, change: dict[str, str], told: str | None) -> None:
    assert fault(Secret(WEB, {**data(pair), **change})) == told


def test_a_key_must_be_the_certificates(pair: Path, tmp_path: Path) -> None:
    other = sign(authority(tmp_path / "other"), "gw.example.test")
    mixed = Secret(WEB, {**data(pair), "tls.key": (other / "tls.key").read_text()})
    assert fault(mixed) == "has a `tls.key` that is not that of the first certificate in `tls.crt`"


def test_a_port_shows_the_certificates_of_its_listeners(pair: Path) -> None:
    """By host name; a change of what is in a Secret is a change of the plan."""
    texts = (gateway(443, **tls(hostname="a.example.test")), secret(pair))
    (shown,) = listener(plan_of(*texts), 443).tls
    assert shown.hostname == "a.example.test"
    assert [one.secret for one in shown.certificates] == [WEB]
    assert "PRIVATE" not in repr(plan_of(*texts))
    (again,) = listener(plan_of(texts[0], secret(sign(authority(pair / "again"), "b"))), 443).tls
    assert again.certificates != shown.certificates


def test_a_listener_without_its_certificate_is_not_opened(pair: Path) -> None:
    """Neither in plain text; the others are."""
    plan, conditions = planned(gateway(443, **tls()), gateway(80, name="plain"))
    assert [one.port for one in plan.listeners] == [80]
    (said_of_it,) = [str(one) for one in conditions if not one.status]
    assert said_of_it == (
        "Gateway default/gw: InvalidCertificateRef: listener p443: no Secret default/web for its certificate; "
        "add it, with tls.crt and tls.key"
    )
    assert said(gateway(443, **tls()), secret(pair, **{"tls.key": "x"})) == {
        ("gw", "Accepted", "InvalidCertificateRef")
    }


def resources(files: dict[str, str], name: str) -> list[dict[str, Any]]:
    """What a file has."""
    found: list[dict[str, Any]] = json.loads(files[name])["resources"]
    return found


def test_a_new_certificate_changes_one_file_and_no_listener(pair: Path) -> None:
    """Envoy follows it by SDS; the file names another one, with the key in it."""
    objects = objects_of(gateway(443, **tls()), secret(pair))
    plan = plan_of(gateway(443, **tls()), secret(pair))
    before = dict(resource_files(plan, surroundings(plan)))
    (one,) = plan.listeners
    chain = replace(one.tls[0], certificates=(Certificate(WEB, "another"),))
    after = resource_files(replace(plan, listeners=(replace(one, tls=(chain,)),)), surroundings(plan))
    assert [name for name in before if before[name] != after[name]] == ["sds_tls_default_web.json"]
    (file,) = pem_files(plan, objects.secrets)
    (shown,) = resources(before, "sds_tls_default_web.json")
    assert shown["tls_certificate"]["private_key"] == {"filename": f"/state/{file}"}
    (written,) = resources(before, "lds.json")
    (chain_written,) = written["filter_chains"]
    context = chain_written["transport_socket"]["typed_config"]["common_tls_context"]
    assert context["alpn_protocols"] == ["h2", "http/1.1"]
    assert context["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"


def test_no_key_is_in_what_others_may_read(pair: Path) -> None:
    """Nor in what Envoy is asked to validate."""
    texts = (gateway(443, **tls()), secret(pair))
    plan, around = plan_of(*texts), surroundings(plan_of(*texts))
    line = data(pair)["tls.key"].splitlines()[1]
    assert line not in "".join(resource_files(plan, around).values()) + everything(plan, around)
    assert line in "".join(pem_files(plan, objects_of(*texts).secrets).values())


def test_without_certificates_nothing_of_tls_is_in_a_listener() -> None:
    plan = plan_of(gateway(80))
    (written,) = resources(dict(resource_files(plan, surroundings(plan))), "lds.json")
    assert "listener_filters" not in written and "transport_socket" not in written["filter_chains"][0]


def test_envoy_verifies_the_pickers_name_and_shows_its_own_certificate() -> None:
    """From the user's directory, which Envoy watches: a renewed pair is taken over without a restart."""
    plan = plan_of(gateway(80))
    around = replace(surroundings(plan), picker_tls="/certs")
    files = dict(resource_files(plan, around))
    (cluster,) = resources(files, "cds.json")
    context = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    validation = context["combined_validation_context"]["default_validation_context"]
    assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": "igw-picker"}}]
    (own,) = resources(files, "sds_picker_pair.json")
    assert own["tls_certificate"]["private_key"] == {"filename": "/certs/tls.key"}
    assert own["tls_certificate"]["watched_directory"] == {"path": "/certs"}
    (trusted,) = resources(files, "sds_picker_authorities.json")
    assert trusted["validation_context"]["trusted_ca"] == {"filename": "/certs/ca.crt"}
    plain = resources(dict(resource_files(plan, surroundings(plan))), "cds.json")
    assert "transport_socket" not in plain[0]
