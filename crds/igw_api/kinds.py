"""The table of what users may write: each kind, its versions, and the model that reads it."""

from collections.abc import Mapping
from typing import Final

from igw_api.endpoints import EndpointList, Pod, ServiceObject
from igw_api.gateway import GatewayClassObject, GatewayObject, HTTPRouteObject
from igw_api.inferencemodel import InferenceModel, InferenceModelRewrite, InferenceObjective
from igw_api.inferencepool import AlphaInferencePool, InferencePool
from igw_api.inferencepoolpolicy import InferencePoolPolicy
from igw_api.meta import GATEWAY_GROUP, K8S_GROUP, LLM_D_GROUP, OWN_GROUP, X_K8S_GROUP, ApiObject
from igw_api.secret import SecretObject

# Kind -> apiVersion -> the model that reads it.
KINDS: Final[Mapping[str, Mapping[str, type[ApiObject]]]] = {
    "InferencePool": {
        f"{K8S_GROUP}/v1": InferencePool,
        f"{X_K8S_GROUP}/v1alpha2": AlphaInferencePool,
        f"{X_K8S_GROUP}/v1alpha1": AlphaInferencePool,
    },
    "InferenceModel": {f"{X_K8S_GROUP}/v1alpha2": InferenceModel, f"{X_K8S_GROUP}/v1alpha1": InferenceModel},
    "InferenceObjective": {
        f"{LLM_D_GROUP}/v1alpha2": InferenceObjective,
        f"{X_K8S_GROUP}/v1alpha2": InferenceObjective,
    },
    "InferenceModelRewrite": {
        f"{LLM_D_GROUP}/v1alpha2": InferenceModelRewrite,
        f"{X_K8S_GROUP}/v1alpha2": InferenceModelRewrite,
    },
    "InferencePoolPolicy": {f"{OWN_GROUP}/v1alpha1": InferencePoolPolicy},
    "EndpointList": {f"{OWN_GROUP}/v1alpha1": EndpointList},
    "GatewayClass": {f"{GATEWAY_GROUP}/v1": GatewayClassObject, f"{GATEWAY_GROUP}/v1beta1": GatewayClassObject},
    "Gateway": {f"{GATEWAY_GROUP}/v1": GatewayObject, f"{GATEWAY_GROUP}/v1beta1": GatewayObject},
    "HTTPRoute": {f"{GATEWAY_GROUP}/v1": HTTPRouteObject, f"{GATEWAY_GROUP}/v1beta1": HTTPRouteObject},
    "Service": {"v1": ServiceObject},
    "Pod": {"v1": Pod},
    "Secret": {"v1": SecretObject},
}
