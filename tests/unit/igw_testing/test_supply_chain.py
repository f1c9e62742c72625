"""The image's bill of materials is fresh and complete, and its licences are ones that may be shipped."""

import json
import re
from pathlib import Path

import pytest

from igw_testing.audit import audit
from igw_testing.supply_chain import ALLOWED, LOCK, ROOT, SBOM, bill, packages, parts
from igw_testing.supply_chain import text as bill_text


def test_the_committed_bill_is_that_of_the_lock_file() -> None:
    """After `make lock`, `make sbom`."""
    assert SBOM.read_text() == bill_text()


def test_the_bill_has_every_pinned_package_once() -> None:
    """Read off the lock file another way."""
    pinned = [line.split()[0].split("==") for line in LOCK.read_text().splitlines() if line[:1].isalnum()]
    libraries = [one for one in bill()["components"] if one["type"] == "library"]
    assert [[one["name"], one["version"]] for one in libraries] == sorted(pinned)
    refs = [one["bom-ref"] for one in bill()["components"]]
    assert len(set(refs)) == len(refs)
    (ours,) = bill()["dependencies"]
    assert set(ours["dependsOn"]) <= set(refs)


def test_every_licence_may_be_shipped() -> None:
    """Of alternatives one is enough; here all are."""
    found = {one.name: parts(one.licence) for one in packages()}
    assert {name: licence - ALLOWED for name, licence in found.items() if not licence or licence - ALLOWED} == {}


def test_every_lock_file_pins_hashes() -> None:
    """No package without one, and none by address."""
    for path in ROOT.glob("requirements*.lock"):
        pins = re.split(r"\n(?=[A-Za-z0-9])", "\n" + path.read_text())[1:]
        wrong = [pin.splitlines()[0] for pin in pins if "==" not in pin or "--hash=sha256:" not in pin or "://" in pin]
        assert pins, path
        assert wrong == [], path


def test_the_bill_is_in_the_form_of_its_standard() -> None:
    """What readers of CycloneDX 1.6 need."""
    written = json.loads(SBOM.read_text())
    assert (written["bomFormat"], written["specVersion"]) == ("CycloneDX", "1.6")
    for one in written["components"]:
        assert {"type", "bom-ref", "name"} <= set(one)
        assert one["type"] != "library" or re.fullmatch(r"pkg:pypi/[a-z0-9._-]+@[^@]+", one["purl"])


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("echo No known vulnerabilities found", 0, "no known weaknesses"),
        ("echo 'Name Version ID Fix Versions'; echo 'x 1 PYSEC-1 2'; exit 1", 1, "PYSEC-1"),
        ("echo 'ConnectionError: nobody there' >&2; exit 1", 0, "not audited: ConnectionError: nobody there"),
        ("exit 1", 0, "not audited"),
    ],
)
def test_an_audit_fails_for_what_it_finds_and_not_for_what_it_cannot_ask(
    tmp_path: Path, program: str, code: int, said: str
) -> None:
    """pip-audit ends with 1 for both."""
    path = tmp_path / "pip-audit"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    found, text = audit(path, LOCK)
    assert (found, said in text) == (code, True), text
