"""Writes the CustomResourceDefinitions from the models: `python -m igw_api.crdgen [FOLDER [CHART_FOLDER]]`.

All go to the first folder (crds/), and those that matter in a cluster to the second as well, the chart's (`make crds`).
The models are the only place where a field is described. `definitions()` is pure; `main` writes the files, and a test
proves that those in the repository are fresh.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from igw_api.kinds import KINDS
from igw_api.meta import K8S_GROUP, LLM_D_GROUP, OWN_GROUP, X_K8S_GROUP, ApiObject
from igw_api.status import AlphaPoolStatus, ConditionsStatus, PolicyStatus, PoolStatus
from igw_api.structural import Schema, structural

Column = tuple[str, str, str]  # name, type, JSON path
_AGE: Final[Column] = ("Age", "date", ".metadata.creationTimestamp")
_POOL: Final[Column] = ("Pool", "string", ".spec.poolRef.name")
_ACCEPTED: Final[Column] = ("Accepted", "string", ".status.conditions[?(@.type=='Accepted')].status")

HEADER: Final = "# Written by `python -m igw_api.crdgen` from the models in crds/igw_api. Do not edit.\n"
# The API server lets nobody define kinds in *.k8s.io without saying whether the community approved the definition.
_APPROVAL: Final = "unapproved, the inference extension's InferencePool as this gateway reads it"


@dataclass(frozen=True, slots=True)
class Definition:
    """What a CRD needs beyond the model. Of `versions` the first is the one that is stored."""

    group: str
    kind: str
    versions: tuple[str, ...]
    status: type[BaseModel]
    columns: tuple[Column, ...] = ()
    short_names: tuple[str, ...] = ()
    plural: str = ""  # the name in URLs; empty: the kind and an s
    in_cluster: bool = True  # False: only `igw up` reads the kind, so the chart does not install it

    @property
    def resource(self) -> str:
        """The name in URLs."""
        return self.plural or f"{self.kind.lower()}s"

    @property
    def name(self) -> str:
        """The CRD's own name."""
        return f"{self.resource}.{self.group}"


def _pool_columns(parents: str) -> tuple[Column, ...]:
    # The API server prints one value for a path: of several Gateways, the first one's.
    return (
        ("Policy", "string", ".status.policy"),
        ("Ready", "integer", ".status.endpoints.ready"),
        ("Endpoints", "integer", ".status.endpoints.total"),
        ("Models", "integer", ".status.models"),
        ("Accepted", "string", f".status.{parents}[*].conditions[?(@.type=='Accepted')].status"),
    )


DEFINITIONS: Final = (
    Definition(K8S_GROUP, "InferencePool", ("v1",), PoolStatus, _pool_columns("parents"), ("infpool",)),
    Definition(
        X_K8S_GROUP,
        "InferencePool",
        ("v1alpha2", "v1alpha1"),
        AlphaPoolStatus,
        _pool_columns("parent"),
        ("xinfpool",),
    ),
    Definition(
        X_K8S_GROUP,
        "InferenceModel",
        ("v1alpha2", "v1alpha1"),
        ConditionsStatus,
        (
            ("Model Name", "string", ".spec.modelName"),
            _POOL,
            ("Criticality", "string", ".spec.criticality"),
            _ACCEPTED,
        ),
    ),
    *(
        Definition(
            group,
            "InferenceObjective",
            ("v1alpha2",),
            ConditionsStatus,
            (_POOL, ("Priority", "integer", ".spec.priority"), _ACCEPTED),
        )
        for group in (X_K8S_GROUP, LLM_D_GROUP)
    ),
    *(
        Definition(group, "InferenceModelRewrite", ("v1alpha2",), ConditionsStatus, (_POOL, _ACCEPTED))
        for group in (X_K8S_GROUP, LLM_D_GROUP)
    ),
    Definition(
        OWN_GROUP,
        "InferencePoolPolicy",
        ("v1alpha1",),
        PolicyStatus,
        (("Scheduling", "string", ".spec.scheduling.policy"), ("Pools", "string", ".status.pools"), _ACCEPTED),
        plural="inferencepoolpolicies",
    ),
    Definition(OWN_GROUP, "EndpointList", ("v1alpha1",), ConditionsStatus, short_names=("epl",), in_cluster=False),
)


def crd(definition: Definition) -> dict[str, Any]:
    """The CustomResourceDefinition, as data."""
    metadata: dict[str, Any] = {"name": definition.name}
    if definition.group.endswith(".k8s.io"):
        metadata["annotations"] = {"api-approved.kubernetes.io": _APPROVAL}
    names: dict[str, Any] = {
        "kind": definition.kind,
        "listKind": f"{definition.kind}List",
        "plural": definition.resource,
        "singular": definition.kind.lower(),
    }
    if definition.short_names:
        names["shortNames"] = list(definition.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": definition.group,
            "names": names,
            "scope": "Namespaced",
            "versions": [_version(definition, version) for version in definition.versions],
        },
    }


def _version(definition: Definition, version: str) -> dict[str, Any]:
    model = KINDS[definition.kind][f"{definition.group}/{version}"]
    columns = (*definition.columns, _AGE)
    return {
        "name": version,
        "served": True,
        "storage": version == definition.versions[0],
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": type_, "jsonPath": path} for name, type_, path in columns],
        "schema": {"openAPIV3Schema": _schema(model, definition.status)},
    }


def _schema(model: type[ApiObject], status: type[BaseModel]) -> Schema:
    return {
        "description": " ".join((model.__doc__ or "").split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Version of the schema that this object is written in.", "type": "string"},
            "kind": {"description": "Kind of the object.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(model, "spec"),
            "status": structural(status),
        },
    }


def definitions(in_cluster: bool = False) -> Iterator[tuple[str, str]]:
    """Name and text of each file; `in_cluster`: only of those that the chart installs."""
    for definition in DEFINITIONS:
        if definition.in_cluster or not in_cluster:
            text = yaml.dump(crd(definition), Dumper=_Dumper, sort_keys=False, width=100)
            yield f"{definition.group}_{definition.resource}.yaml", HEADER + text


class _Dumper(yaml.SafeDumper):
    """Writes every value out: anchors for repeated lists would be hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main(folder: Path, chart: Path | None = None) -> None:
    """Write all files to `folder`, and those that the chart installs to `chart` as well."""
    _write(folder, definitions())
    if chart is not None:
        _write(chart, definitions(in_cluster=True))


def _write(folder: Path, files: Iterator[tuple[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files:
        (folder / name).write_text(text)


if __name__ == "__main__":
    main(*([Path(word) for word in sys.argv[1:3]] or [Path(__file__).parents[1]]))
