"""Secrets in manifest files: what must not be written anywhere else. For standalone mode only.

On Kubernetes nothing of ours reads them for a standby: Envoy Gateway does. Problems never quote what is in one, so its
values are looked at here and not by pydantic.
"""

import base64
import binascii
from typing import Any

from igw_api.meta import ApiObject, Invalid
from igw_api.objects import Secret


class SecretObject(ApiObject):
    """A Secret; its fields stand beside the metadata, not in a `spec`."""

    type: Any = "Opaque"
    immutable: Any = None
    data: Any = None
    string_data: Any = None

    def convert(self) -> tuple[Secret]:
        """The Secret, decoded; what is in both is taken from `stringData`. Raises Invalid."""
        decoded = {name: _decoded(name, value) for name, value in _texts("data", self.data).items()}
        return (Secret(self.metadata.key, {**decoded, **_texts("stringData", self.string_data)}),)


def _texts(field: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        if value is not None:
            raise Invalid((field,), "must be a mapping of names to texts")
        return {}
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise Invalid((field, str(name)), "must be text; put it in quotes")
    return value


def _decoded(name: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Invalid(("data", name), "must be text in base64; or use stringData") from None
