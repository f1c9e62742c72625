"""Compiled protobuf messages. Only `igw_extproc.codec` may import them; `make protos` makes them from the .proto files here."""
