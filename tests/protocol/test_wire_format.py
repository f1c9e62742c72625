"""Our ext_proc messages against Envoy's own definitions: every field that we have, by number, type and name.

The definitions come from the package `envoy-data-plane`, generated from Envoy's sources by others.
"""

import re
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from igw_protos import ext_proc_pb2 as pb
from igw_testing.envoy_messages import core, ext_proc, filters, types

# Our message -> Envoy's.
MESSAGES: dict[Any, Any] = {
    pb.ProcessingRequest: ext_proc.ProcessingRequest,
    pb.ProtocolConfiguration: ext_proc.ProtocolConfiguration,
    pb.HttpHeaders: ext_proc.HttpHeaders,
    pb.HttpBody: ext_proc.HttpBody,
    pb.HttpTrailers: ext_proc.HttpTrailers,
    pb.HeaderMap: core.HeaderMap,
    pb.HeaderValue: core.HeaderValue,
    pb.Metadata: core.Metadata,
    pb.ProcessingResponse: ext_proc.ProcessingResponse,
    pb.ProcessingMode: filters.ProcessingMode,
    pb.HeadersResponse: ext_proc.HeadersResponse,
    pb.BodyResponse: ext_proc.BodyResponse,
    pb.TrailersResponse: ext_proc.TrailersResponse,
    pb.CommonResponse: ext_proc.CommonResponse,
    pb.HeaderMutation: ext_proc.HeaderMutation,
    pb.HeaderValueOption: core.HeaderValueOption,
    pb.BodyMutation: ext_proc.BodyMutation,
    pb.StreamedBodyResponse: ext_proc.StreamedBodyResponse,
    pb.ImmediateResponse: ext_proc.ImmediateResponse,
    pb.HttpStatus: types.HttpStatus,
}
ENUMS: dict[Any, Any] = {
    pb.BodySendMode: filters.ProcessingModeBodySendMode,
    pb.ProcessingMode.HeaderSendMode: filters.ProcessingModeHeaderSendMode,
    pb.HeaderValueOption.AppendAction: core.HeaderValueOptionHeaderAppendAction,
}
SCALARS = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
}


def test_every_message_of_ours_is_compared() -> None:
    """A new message in our file must be added to the table above."""
    ours = set(pb.DESCRIPTOR.message_types_by_name)
    assert ours == {message.DESCRIPTOR.name for message in MESSAGES}


@pytest.mark.parametrize(("ours", "theirs"), MESSAGES.items(), ids=[message.__name__ for message in MESSAGES])
def test_every_field_has_envoys_number_type_and_place(ours: Any, theirs: Any) -> None:
    """The same bytes mean the same to both."""
    for field in ours.DESCRIPTOR.fields:
        declared = theirs.__dataclass_fields__[field.name]
        told = declared.metadata["betterproto"]
        where = f"{ours.__name__}.{field.name}"
        assert told.number == field.number, where
        assert told.proto_type == _type(field), where
        assert (told.repeated or told.proto_type == "map") == field.is_repeated, where
        assert told.group == (field.containing_oneof.name if field.containing_oneof else None), where
        if field.message_type is not None and told.proto_type == "message":
            assert _name(field.message_type) in re.findall(r"\w+", declared.type), where


def _type(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "map"
    if field.full_name == "igw.ext_proc.HttpStatus.code":
        return "enum"  # an int32 on purpose: both are varints, and Envoy's enum holds the codes as they are
    return SCALARS[field.type]


def _name(message: Descriptor) -> str:
    """What Envoy's message is called that our `message` stands for; Google's own are the same."""
    by_name = {ours.DESCRIPTOR.name: theirs.__name__ for ours, theirs in MESSAGES.items()}
    return str(by_name.get(message.name, message.name))


@pytest.mark.parametrize(("ours", "theirs"), ENUMS.items(), ids=["BodySendMode", "HeaderSendMode", "AppendAction"])
def test_every_enum_value_has_envoys_number(ours: Any, theirs: Any) -> None:
    """Values that only Envoy has may exist; ours must agree."""
    known = {one.name: one.value for one in theirs}
    assert dict(ours.items()).items() <= known.items()


def test_envoys_status_codes_are_the_http_codes() -> None:
    """So that our plain number means the same."""
    codes = {one.value for one in types.StatusCode}
    assert {200, 400, 404, 413, 415, 429, 500, 503} <= codes
