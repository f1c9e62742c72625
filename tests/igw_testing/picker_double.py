"""A picker that does as a file says and writes down what Envoy sends: `python picker_double.py --orders DIR ...`.

For tests of Envoy's side only, where the real picker's judgement would be in the way. `DIR/destination` holds the
destination to answer with (empty: none); `DIR/messages.jsonl` gets one line per message.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from igw_api import wire
from igw_protos import ext_proc_pb2 as pb
from igw_protos import health_pb2

Context = Any  # grpcio has no types


class Double:
    """The answers. The first message of a stream tells which of the two filters is asking."""

    def __init__(self, orders: Path) -> None:
        self._orders = orders
        self._leases = 0

    async def process(self, requests: AsyncIterator[bytes], _context: Context) -> AsyncIterator[bytes]:
        async for data in requests:
            message = pb.ProcessingRequest.FromString(data)
            kind = message.WhichOneof("request")
            self._write_down(kind, message)
            if kind == "request_body":
                placed = pb.ProcessingResponse(request_body=pb.BodyResponse(), dynamic_metadata=self._placement())
                yield _bytes(placed)
            elif kind == "request_headers":
                placed = pb.ProcessingResponse(request_headers=pb.HeadersResponse(), dynamic_metadata=self._placement())
                yield _bytes(placed)
            elif kind == "response_headers":
                yield _bytes(pb.ProcessingResponse(response_headers=pb.HeadersResponse()))
            elif kind == "response_body":
                yield _bytes(pb.ProcessingResponse(response_body=pb.BodyResponse()))
                return
        with (self._orders / "messages.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "end"}) + "\n")

    def _placement(self) -> Struct:
        self._leases += 1
        told = {wire.LEASE_HEADER: f"lease-{self._leases}"}
        destination = (self._orders / "destination").read_text().strip()
        if destination:
            told[wire.DESTINATION_HEADER] = destination
        metadata = Struct()
        metadata.update({wire.LB_NAMESPACE: told})
        return metadata

    def _write_down(self, kind: str | None, message: pb.ProcessingRequest) -> None:
        size = len(message.request_body.body) if kind == "request_body" else len(message.response_body.body)
        told = MessageToDict(message)
        attributes = told.get("attributes", {}).get(wire.EXT_PROC_FILTER, {})
        metadata = told.get("metadataContext", {}).get("filterMetadata", {}).get(wire.LB_NAMESPACE, {})
        line = {"kind": kind, "size": size, "attributes": attributes, "metadata": metadata}
        if kind == "request_body":
            line["end"] = message.request_body.end_of_stream
        with (self._orders / "messages.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def _bytes(message: pb.ProcessingResponse) -> bytes:
    return message.SerializeToString()


async def _check(_request: bytes, _context: Context) -> bytes:
    return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


async def _serve(host: str, port: int, orders: Path) -> None:
    double = Double(orders)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
    process = grpc.stream_stream_rpc_method_handler(double.process)
    check = grpc.unary_unary_rpc_method_handler(_check)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(wire.EXT_PROC_SERVICE, {"Process": process}),
            grpc.method_handlers_generic_handler(wire.HEALTH_SERVICE, {"Check": check}),
        )
    )
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    print(f"igw picker listening port={port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    known, _ = parser.parse_known_args()
    asyncio.run(_serve(known.host, known.port, known.orders))
