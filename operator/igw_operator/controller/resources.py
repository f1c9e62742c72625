"""Which kinds of the API server are watched, and why. A table; no I/O.

Every kind is watched in one version only: all versions of a kind share one schema here (`crds/`), so none loses fields.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from igw_api.meta import GATEWAY_GROUP, K8S_GROUP, LLM_D_GROUP, OWN_GROUP, X_K8S_GROUP
from igw_api.objects import Key
from igw_api.wire import MANAGED_BY, MANAGED_BY_LABEL

ENVOY_GROUP: Final = "gateway.envoyproxy.io"
RBAC_GROUP: Final = "rbac.authorization.k8s.io"


class Whose(Enum):
    """Who writes objects of a kind. Of kinds that only we are interested in as writers, only ours are watched."""

    USERS = "users"
    OURS = "ours"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind in the version that is read and written. `provider`: what brings it, for the message when it is missing.

    `required`: without it the operator cannot work; else the kind is used when it is there.
    """

    group: str
    version: str
    kind: str
    plural: str
    whose: Whose
    provider: str = "Kubernetes"
    required: bool = True
    namespaced: bool = True

    @property
    def selector(self) -> str | None:
        """The label selector of its watch, or None: all objects."""
        return f"{MANAGED_BY_LABEL}={MANAGED_BY}" if self.whose is Whose.OURS else None

    @property
    def api_version(self) -> str:
        """As manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """`plural.group`, as CRDs are named."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, key: Key | None = None, subresource: str = "") -> str:
        """The URL path of one object, or of all objects of all namespaces."""
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if key is None:
            return f"{base}/{self.plural}"
        place = f"/namespaces/{key.namespace}" if self.namespaced else ""
        return f"{base}{place}/{self.plural}/{key.name}" + (f"/{subresource}" if subresource else "")


OURS: Final = "charts/inference-gateway (its CRDs)"
GATEWAY_API: Final = "the Gateway API's CRDs (Envoy Gateway's chart brings them)"
ENVOY: Final = "Envoy Gateway 1.9 (https://gateway.envoyproxy.io/docs/install)"


def _users(group: str, version: str, kind: str, plural: str, *, required: bool = False) -> Resource:
    return Resource(group, version, kind, plural, Whose.USERS, OURS, required)


POOL: Final = _users(K8S_GROUP, "v1", "InferencePool", "inferencepools", required=True)
ALPHA_POOL: Final = _users(X_K8S_GROUP, "v1alpha2", "InferencePool", "inferencepools")
MODEL: Final = _users(X_K8S_GROUP, "v1alpha2", "InferenceModel", "inferencemodels")
POLICY: Final = _users(OWN_GROUP, "v1alpha1", "InferencePoolPolicy", "inferencepoolpolicies", required=True)
# What users write for us, and `igw_api.manifests` reads. The first of two kinds of one name wins an object's name.
DECLARED: Final = (
    POOL,
    ALPHA_POOL,
    MODEL,
    _users(LLM_D_GROUP, "v1alpha2", "InferenceObjective", "inferenceobjectives"),
    _users(X_K8S_GROUP, "v1alpha2", "InferenceObjective", "inferenceobjectives"),
    _users(LLM_D_GROUP, "v1alpha2", "InferenceModelRewrite", "inferencemodelrewrites"),
    _users(X_K8S_GROUP, "v1alpha2", "InferenceModelRewrite", "inferencemodelrewrites"),
    POLICY,
)

GATEWAY_CLASS: Final = Resource(
    GATEWAY_GROUP, "v1", "GatewayClass", "gatewayclasses", Whose.USERS, GATEWAY_API, namespaced=False
)
GATEWAY: Final = Resource(GATEWAY_GROUP, "v1", "Gateway", "gateways", Whose.USERS, GATEWAY_API)
ROUTE: Final = Resource(GATEWAY_GROUP, "v1", "HTTPRoute", "httproutes", Whose.BOTH, GATEWAY_API)
SERVICE: Final = Resource("", "v1", "Service", "services", Whose.BOTH)
# The controller of EndpointSlices copies a Service's labels, so that ours select its slices too.
SLICE: Final = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", Whose.OURS)
CONFIG_MAP: Final = Resource("", "v1", "ConfigMap", "configmaps", Whose.OURS)


def _envoy(kind: str, plural: str, whose: Whose = Whose.OURS) -> Resource:
    return Resource(ENVOY_GROUP, "v1alpha1", kind, plural, whose, ENVOY)


# Of these, a listener follows one: the oldest, whoever wrote it.
LISTENER_POLICIES: Final = (
    _envoy("ClientTrafficPolicy", "clienttrafficpolicies", Whose.BOTH),
    _envoy("EnvoyExtensionPolicy", "envoyextensionpolicies", Whose.BOTH),
)
SECURITY_POLICY: Final = _envoy("SecurityPolicy", "securitypolicies", Whose.BOTH)
# Each kind that we create.
RENDERED: Final = (
    CONFIG_MAP,
    Resource("", "v1", "ServiceAccount", "serviceaccounts", Whose.OURS),
    Resource(RBAC_GROUP, "v1", "Role", "roles", Whose.OURS),
    Resource(RBAC_GROUP, "v1", "RoleBinding", "rolebindings", Whose.OURS),
    SERVICE,
    SLICE,
    Resource("apps", "v1", "Deployment", "deployments", Whose.OURS),
    _envoy("BackendTrafficPolicy", "backendtrafficpolicies"),
    _envoy("HTTPRouteFilter", "httproutefilters"),
    _envoy("Backend", "backends"),
    *LISTENER_POLICIES,
    _envoy("EnvoyPatchPolicy", "envoypatchpolicies"),
    SECURITY_POLICY,
    ROUTE,
)
WATCHED: Final = (*DECLARED, GATEWAY_CLASS, GATEWAY, *RENDERED)
# What we create has one group per kind.
BY_KIND: Final = {resource.kind: resource for resource in RENDERED}

PEERING: Final = Resource(
    "kopf.dev", "v1", "ClusterKopfPeering", "clusterkopfpeerings", Whose.BOTH, OURS, namespaced=False
)
EVENT: Final = Resource("", "v1", "Event", "events", Whose.OURS)
