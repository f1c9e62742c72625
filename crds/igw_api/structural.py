"""A pydantic model to the structural schema that a CustomResourceDefinition wants. Pure; called by `crdgen`.

Structural means: one type at every node, no references, no alternatives, no `additionalProperties: false` (the API
server prunes unknown fields itself). Only keywords named here come through; a new one fails until somebody decides.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

Schema = dict[str, Any]

# In the order in which they are written.
_KEPT: Final = (
    *("description", "type", "format", "enum", "default", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "minItems", "maxItems", "minProperties", "maxProperties"),
    *("x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-validations", "required"),
)
_CHILDREN: Final = ("additionalProperties", "items", "properties")
_DROPPED: Final = frozenset({"title", "propertyNames", "$defs"})


def structural(model: type[BaseModel], field: str | None = None) -> Schema:
    """The schema of `model`, or of one of its fields by its name in YAML. Raises ValueError for what it cannot say."""
    whole = model.model_json_schema(by_alias=True)
    definitions = whole.get("$defs", {})
    return _node(whole if field is None else whole["properties"][field], definitions)


def _node(source: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    source = _flat(source, definitions)
    found: Schema = {}
    for keyword, value in source.items():
        if keyword in _KEPT:
            found[keyword] = value
        elif keyword not in _DROPPED:
            found.update(_nested(keyword, value, definitions))
    if "description" in found:
        found["description"] = " ".join(found["description"].split())
    if found.get("type") == "integer":
        found.setdefault("format", "int32")
    if found.get("default", ...) is None:
        del found["default"]
    return {keyword: found[keyword] for keyword in (*_KEPT, *_CHILDREN) if keyword in found}


def _nested(keyword: str, value: Any, definitions: Mapping[str, Any]) -> Schema:
    """A keyword that holds schemas or needs other words."""
    match keyword, value:
        case "properties", _:
            return {"properties": {name: _node(inner, definitions) for name, inner in value.items()}}
        case "items", _:
            return {"items": _node(value, definitions)}
        case "const", _:
            return {"enum": [value]}
        case "additionalProperties", False:
            return {}
        case "additionalProperties", _:
            return {"additionalProperties": _node(value, definitions)}
        case "patternProperties", _:
            # Structural schemas cannot constrain the names of a map; the controllers do.
            (inner,) = value.values()
            return {"additionalProperties": _node(inner, definitions)}
    raise ValueError(f"no structural form for {keyword}: {value}")


def _flat(source: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """References and `X | None` replaced by what they mean; what is written beside them wins."""
    beside = {keyword: value for keyword, value in source.items() if keyword not in ("$ref", "anyOf")}
    if "$ref" in source:
        return {**_flat(definitions[source["$ref"].rpartition("/")[2]], definitions), **beside}
    if "anyOf" in source:
        options = [option for option in source["anyOf"] if option != {"type": "null"}]
        if len(options) != 1:
            raise ValueError(f"no structural form for alternatives: {options}")
        return {**_flat(options[0], definitions), **beside}
    return source
