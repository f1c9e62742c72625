"""The operator's configuration file: shape, defaults, and one-line errors. No I/O but reading that file.

Described for users in docs/operator.md. Unknown keys are mistakes.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from igw_operator.render.envoy_gateway.values import Options

LAST_PORT = 65535
Level = Literal["debug", "info", "warning", "error"]


class BadConfiguration(ValueError):
    """The file cannot be read, or something in it is wrong. The message is one line."""


class _Section(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class LocalReference(_Section):
    """An object of the same namespace."""

    name: Annotated[str, Field(min_length=1)]


class PickerSection(_Section):
    """How pickers run. What is a mapping or a list is Kubernetes' own and goes into the Pods as it is."""

    image: Annotated[str, Field(min_length=1)]
    """The image with `igw` in it."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    resources: dict[str, Any] = {}
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    image_pull_secrets: list[LocalReference] = []
    """Secrets with registry credentials. They must exist in the namespace of every Gateway that serves pools."""
    log_level: Level = "info"


class GatewaySection(_Section):
    """Which Gateways are ours."""

    controller_name: Annotated[str, Field(min_length=1)] = "gateway.envoyproxy.io/gatewayclass-controller"
    """Only Gateways whose GatewayClass names this controller are served."""
    patch_policies: bool = False
    """Whether Envoy Gateway has EnvoyPatchPolicy enabled, and it shall be used."""
    providers: bool = False
    """Whether Envoy Gateway has Backend enabled, and pools' standbys may be providers."""
    picker_wait_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0
    """How long a new listener waits for its first picker before its pools are served without one."""


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) <= LAST_PORT):
        raise ValueError("must look like 0.0.0.0:8080 or [::]:8080")
    return text


class OperatorSection(_Section):
    """The operator's own process."""

    peering: Annotated[str, Field(min_length=1)] | None = None
    """Name of the ClusterKopfPeering that several replicas share. None: this is the only one."""
    listen: Annotated[str, AfterValidator(_listen)] = "0.0.0.0:8080"
    """Where /healthz, /readyz and /metrics are served."""
    log_level: Level = "info"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class OperatorSettings(_Section):
    """The whole file."""

    picker: PickerSection
    gateway: GatewaySection = GatewaySection()
    operator: OperatorSection = OperatorSection()

    @property
    def options(self) -> Options:
        """What the renderer wants to know of it."""
        picker = self.picker
        return Options(
            image=picker.image,
            image_pull_policy=picker.image_pull_policy,
            resources=picker.resources,
            node_selector=picker.node_selector,
            tolerations=tuple(picker.tolerations),
            log_level=picker.log_level,
            image_pull_secrets=tuple(one.model_dump() for one in picker.image_pull_secrets),
            patch_policies=self.gateway.patch_policies,
            providers=self.gateway.providers,
        )


def load(path: Path) -> OperatorSettings:
    """Read the file. Raises BadConfiguration."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadConfiguration(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BadConfiguration(f"{path}: must be a mapping with `picker`, `gateway` and `operator`")
    try:
        return OperatorSettings.model_validate(data)
    except ValidationError as error:
        raise BadConfiguration(f"{path}: {_told(error)}") from error


def _told(error: ValidationError) -> str:
    return "; ".join(_sentence(one["loc"], one["type"], one["msg"]) for one in error.errors(include_url=False))


def _sentence(place: tuple[int | str, ...], type_: str, message: str) -> str:
    sayings = {"extra_forbidden": "is not known", "missing": "is required"}
    text = sayings.get(type_, message.removeprefix("Value error, "))
    return f"{'.'.join(map(str, place))}: {text}"
