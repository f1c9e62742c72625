"""Secrets in manifest files: what must not be written anywhere else. For standalone mode only.

On Kubernetes nothing of ours reads them for a standby: Envoy Gateway does.
"""

import base64
import binascii

from pydantic import Field

from igw_api.meta import ApiObject, Invalid
from igw_api.objects import Secret


class SecretObject(ApiObject):
    """A Secret; its fields stand beside the metadata, not in a `spec`."""

    type: str = "Opaque"
    immutable: bool | None = None
    data: dict[str, str] = Field(default_factory=dict, repr=False)
    string_data: dict[str, str] = Field(default_factory=dict, repr=False)

    def convert(self) -> tuple[Secret]:
        """The Secret, decoded; what is in both is taken from `stringData`. Raises Invalid."""
        decoded = {name: _decoded(name, value) for name, value in self.data.items()}
        return (Secret(self.metadata.key, {**decoded, **self.string_data}),)


def _decoded(name: str, value: str) -> str:
    """Never quotes the value."""
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Invalid(("data", name), "must be text in base64; or use stringData") from None
