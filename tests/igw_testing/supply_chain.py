"""What the image is made of: a bill of materials (CycloneDX) and the licences, from the lock file of the image.

`python -m igw_testing.supply_chain` writes docs/sbom.cdx.json anew and prints the licences (`make sbom`). Licences are
those that the installed packages declare; nothing is asked of the network. The lock file has the hashes, so the bill
names that file by its own.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
LOCK: Final = ROOT / "requirements-runtime.lock"
SBOM: Final = ROOT / "docs" / "sbom.cdx.json"
_PIN: Final = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)
_BASE: Final = re.compile(r"^ARG BASE=(\S+):(\S+)$", re.MULTILINE)

# What packages that do not write SPDX expressions declare instead.
SPDX: Final[Mapping[str, str]] = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
}
# May be shipped with an Apache-2.0 program. MPL-2.0 only as long as its files are unchanged, as here.
ALLOWED: Final = frozenset(
    {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "PSF-2.0"},
)
# Of packages that no Linux image has, and that are not installed where the bill is written.
_ELSEWHERE: Final[Mapping[str, str]] = {"colorama": "BSD-3-Clause"}


class UnknownLicence(Exception):
    """A package declares none that we know: look at it, then extend the tables."""


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One pinned package. `marker`: where it is installed; empty: everywhere."""

    name: str
    version: str
    marker: str = ""

    @property
    def purl(self) -> str:
        """Its name in bills of materials."""
        return f"pkg:pypi/{self.name}@{self.version}"

    @property
    def licence(self) -> str:
        """An SPDX expression. Raises UnknownLicence."""
        try:
            metadata = distribution(self.name).metadata
        except PackageNotFoundError:
            return _ELSEWHERE[self.name]
        if "License-Expression" in metadata:
            return metadata["License-Expression"]
        declared = [one for one in metadata.get_all("Classifier") or () if one in SPDX]
        if declared:
            return " OR ".join(sorted({SPDX[one] for one in declared}))
        (plain, *_) = metadata.get_all("License") or [""]
        if SPDX.get(plain, plain) not in ALLOWED:
            raise UnknownLicence(f"{self.name} {self.version}")
        return SPDX.get(plain, plain)


def packages() -> list[Package]:
    """All that the lock file of the image pins."""
    return sorted(Package(name, version, marker) for name, version, marker in _PIN.findall(LOCK.read_text()))


def parts(expression: str) -> frozenset[str]:
    """The licences in an SPDX expression."""
    return frozenset(re.findall(r"[A-Za-z0-9.-]+", expression)) - {"AND", "OR", "WITH"}


def bill() -> dict[str, Any]:
    """The image's bill of materials, CycloneDX 1.6. Has no date, so that it is the same until the lock file changes."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    base = _BASE.search((ROOT / "Dockerfile").read_text())
    assert base is not None, "the Dockerfile names its base"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": _ours(),
            "properties": [{"name": "inference-gateway:lock-file", "value": LOCK.name}],
        },
        "components": [
            {"type": "container", "bom-ref": "base", "name": base[1], "version": base[2]},
            *(_component(one) for one in packages()),
            {
                "type": "file",
                "bom-ref": "lock",
                "name": LOCK.name,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            },
        ],
        "dependencies": [{"ref": "inference-gateway", "dependsOn": ["base", *(one.purl for one in packages())]}],
    }


def _ours() -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": "inference-gateway",
        "name": "inference-gateway",
        "version": distribution("inference-gateway").version,
        "licenses": [{"expression": "Apache-2.0"}],
    }


def _component(one: Package) -> dict[str, Any]:
    marker = {"properties": [{"name": "inference-gateway:only-if", "value": one.marker}]} if one.marker else {}
    return {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
        "licenses": [{"expression": one.licence}],
        **marker,
    }


def text() -> str:
    """The bill as it is committed."""
    return json.dumps(bill(), indent=1) + "\n"


def licences() -> Iterator[str]:
    """A line for each package."""
    for one in packages():
        yield f"{one.name}=={one.version}\t{one.licence}"


if __name__ == "__main__":
    SBOM.write_text(text())
    print("\n".join(licences()).expandtabs(40))
