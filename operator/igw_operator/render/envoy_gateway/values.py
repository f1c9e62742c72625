"""What the Envoy Gateway renderer takes and gives. Values only.

Called by the reconciler: it fills `Observed` from what it watches, and applies `Rendered` objects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from igw_api.objects import Key

Manifest = dict[str, Any]
Identity = tuple[str, Key]  # kind, namespace and name: what we create has one group per kind


class Phase(IntEnum):
    """When an object is applied: lower first. Deleting goes the other way round.

    A policy that arrives after its route changes a running cluster, which takes Envoy about 15 s.
    """

    FOUNDATION = 0  # what a picker needs, and Services
    BACKEND_POLICY = 1
    LISTENER_POLICY = 2
    ROUTE = 3
    FURTHER_ROUTE = 4  # of pools that are not the default: one that was may give that up when another has it


@dataclass(frozen=True, slots=True)
class Rendered:
    """One object that shall exist.

    `waits`: something that it builds on is not known yet. Then it is neither applied nor pruned; it stays as it is.
    """

    phase: Phase
    manifest: Manifest
    waits: bool = False

    @property
    def identity(self) -> Identity:
        """Kind and key."""
        meta = self.manifest["metadata"]
        return self.manifest["kind"], Key(meta["namespace"], meta["name"])


@dataclass(frozen=True, slots=True)
class Observed:
    """What the API server knows of our own objects, and who else holds their names.

    `cluster_ips`: of Services, by key. `foreign`: objects that exist without our label. `statuses`: the `status` of
    ours, as it was read. `awaited`: pickers that no request may be led past yet, because Envoy must not find them
    down the first time: it would look again only after 60 s, and Envoy Gateway cannot be told otherwise.
    """

    cluster_ips: Mapping[Key, str] = field(default_factory=dict)
    foreign: frozenset[Identity] = frozenset()
    statuses: Mapping[Identity, Mapping[str, Any]] = field(default_factory=dict)
    awaited: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class Options:
    """How pickers run, from the operator's configuration. Mappings are Kubernetes' own."""

    image: str
    image_pull_policy: str = "IfNotPresent"
    resources: Mapping[str, Any] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    log_level: str = "info"
    image_pull_secrets: tuple[Mapping[str, Any], ...] = ()
    patch_policies: bool = False  # EnvoyPatchPolicy is enabled in Envoy Gateway
    providers: bool = False  # Backend is
