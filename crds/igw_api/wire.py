"""Names that cross a process boundary: headers, metadata keys, labels, annotations, gRPC services.

Both planes import these, and only these, to agree with each other and with other gateways. The header and metadata
names are those of the Gateway API inference extension's endpoint picker protocol (1.0).
"""

from typing import Final

# Picker -> proxy: where the request shall go, "ip:port[,ip:port...]", best first.
DESTINATION_HEADER: Final = "x-gateway-destination-endpoint"
# Proxy -> picker: who served it, in `envoy.lb` metadata on the response headers message.
DESTINATION_SERVED_KEY: Final = "x-gateway-destination-endpoint-served"
LB_NAMESPACE: Final = "envoy.lb"
# Proxy -> picker: the only candidates allowed.
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
SUBSET_KEY: Final = "x-gateway-destination-endpoint-subset"

# Client -> picker.
OBJECTIVE_HEADER: Final = "x-gateway-inference-objective"
MODEL_REWRITE_HEADER: Final = "x-gateway-model-name-rewrite"
MODEL_HEADER: Final = "x-gateway-model-name"
FAIRNESS_HEADER: Final = "x-gateway-inference-fairness-id"
SESSION_HEADER: Final = "x-session-id"
# It asks for DECISION_HEADER; any value.
EXPLAIN_HEADER: Final = "x-igw-explain"
# Where clients have their API keys: whose request it is, if no fairness id says so. The first that is present counts.
CREDENTIAL_HEADERS: Final = ("authorization", "x-api-key")

# Picker -> client.
DROP_REASON_HEADER: Final = "x-llm-d-request-dropped-reason"
WENT_INTO_RESPONSE_HEADER: Final = "x-went-into-resp-headers"
# Where the request went and why, where the pool's policy allows that.
DECISION_HEADER: Final = "x-igw-decision"

# Picker -> client: what an API key may use in a minute, what is left of it, and in what time it will be whole again, in
# OpenAI's names. In `envoy.lb` metadata where an engine answers.
KEY_REQUESTS_HEADERS: Final = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
)
KEY_TOKENS_HEADERS: Final = (
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
LEFT_HEADERS: Final = (*KEY_REQUESTS_HEADERS, *KEY_TOKENS_HEADERS)

# Picker -> proxy: the pool that the body's model belongs to, "namespace/name", where a route leads to several. The
# proxy then routes once more by it: a header, and the same key in `envoy.lb` metadata.
POOL_HEADER: Final = "x-igw-pool"

# Picker -> proxy: the tokens that a response cost, a number in `envoy.lb` metadata with the body's end.
REQUEST_COST_KEY: Final = "x-gateway-inference-request-cost"

# The name that a picker's certificate has, where it shows one.
PICKER_HOST: Final = "igw-picker"

# Proxy -> picker and engine: the name of the client whose token the request had.
CLIENT_HEADER: Final = "x-igw-client"

# Picker -> its own first-byte filter: which lease a response belongs to.
LEASE_HEADER: Final = "x-igw-lease"

# Picker -> the sidecar beside a decode engine: "ip:port" of the endpoint that computes the prompt; absent: this one
# does. And what to do when that one fails: PREFILL_STRICT (refuse) or PREFILL_DECODE (compute the prompt here).
PREFILLER_HEADER: Final = "x-prefiller-host-port"
PREFILL_FAILURE_HEADER: Final = "x-igw-prefill-failure"
PREFILL_STRICT: Final = "strict"
PREFILL_DECODE: Final = "decode"

# Sidecar -> picker, with the response: where the prompt was computed.
PREFILL_OUTCOME_HEADER: Final = "x-igw-prefill"
PREFILLED_REMOTELY: Final = "remote"
PREFILLED_LOCALLY: Final = "local"  # no prefiller was named
PREFILL_FAILED: Final = "failed"  # the prefiller did not do it: the decode endpoint did, or the request was refused

# Picker -> proxy: how long one try may take to its response headers, in milliseconds. Envoy's own name; it takes
# this from nobody but the picker.
TRY_TIMEOUT_HEADER: Final = "x-envoy-upstream-rq-per-try-timeout-ms"

# To the client: the standby that answered. Providers' errors are passed on as they are, so this tells whose they are.
SERVED_BY_HEADER: Final = "x-igw-served-by"
# What no provider is told: our own names, those that proxies add, and what clients say of themselves.
UNTOLD_PREFIXES: Final = ("x-",)
UNTOLD_HEADERS: Final = (
    "authorization",
    "proxy-authorization",
    "api-key",
    "cookie",
    "forwarded",
    "via",
    "origin",
    "referer",
    "openai-organization",
    "openai-project",
)

# What no client may send: it would choose a destination, a prefiller, a pool or another request's lease, or be another.
PRIVATE_HEADERS: Final = (
    DESTINATION_HEADER,
    LEASE_HEADER,
    POOL_HEADER,
    CLIENT_HEADER,
    PREFILLER_HEADER,
    PREFILL_FAILURE_HEADER,
)

# Attributes of an ext_proc message live under the filter's name.
EXT_PROC_FILTER: Final = "envoy.filters.http.ext_proc"
EXT_PROC_SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
EXT_PROC_METHOD: Final = f"/{EXT_PROC_SERVICE}/Process"
# Where proxies tell of each try that failed: their access log service.
TRIES_METHOD: Final = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"

# Annotation on an InferencePool: expose it on that gateway's listener. YAML text: name, port, optional namespace.
ATTACH_TO_ANNOTATION: Final = "inference.networking.x-k8s.io/attach-to"
# Annotation on a Pod or endpoint: "8000,8001", the ports of the pool that this one serves.
ACTIVE_PORTS_ANNOTATION: Final = "inference.networking.k8s.io/active-ports"

# Labels on an endpoint. The first that is present wins.
ENGINE_LABELS: Final = ("inferencegateway.io/engine", "llm-d.ai/engine-type", "inference.networking.k8s.io/engine-type")
# What an endpoint does of a request: `prefill`, `decode` (its answer, and where nobody else does its prompt), `both`.
ROLE_LABELS: Final = ("inferencegateway.io/role", "llm-d.ai/role")
METRICS_PATH_LABEL: Final = "inferencegateway.io/metrics-path"
METRICS_PORT_LABEL: Final = "inferencegateway.io/metrics-port"
# Where an exporter tells of its GPUs: a port, of its own address or, with `node`, of its node's; and which GPUs of that
# page are its own, by their numbers: "0_1".
GPU_METRICS_PORT_LABEL: Final = "inferencegateway.io/gpu-metrics-port"
GPU_METRICS_HOST_LABEL: Final = "inferencegateway.io/gpu-metrics-host"
GPU_METRICS_NODE: Final = "node"
GPUS_LABEL: Final = "inferencegateway.io/gpus"
# What the picker adds to a Pod's labels: the name and an address of its node, and "namespace/name" of the Pod itself.
HOSTNAME_LABEL: Final = "kubernetes.io/hostname"
NODE_ADDRESS_LABEL: Final = "inferencegateway.io/node-address"
POD_LABEL: Final = "inferencegateway.io/pod"

# Labels on what the operator creates: that it is the operator's, and for which gateway, listener and pool.
FIELD_MANAGER: Final = "inference-gateway"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "inference-gateway"
GATEWAY_NAMESPACE_LABEL: Final = "inferencegateway.io/gateway-namespace"
GATEWAY_LABEL: Final = "inferencegateway.io/gateway"
LISTENER_LABEL: Final = "inferencegateway.io/listener"
POOL_NAMESPACE_LABEL: Final = "inferencegateway.io/pool-namespace"
POOL_LABEL: Final = "inferencegateway.io/pool"
# On a picker's Pods: the name of its ConfigMap.
PICKER_LABEL: Final = "inferencegateway.io/picker"
# The key of a picker's ConfigMap that holds `objectset.dump`.
OBJECTS_KEY: Final = "objects.json"
# In the state directory of `igw up`: where its processes listen, as JSON.
PLACES_FILE: Final = "places.json"
