"""gRPC services from a table of functions, and the runtime's exceptions as gRPC's codes."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from igw_cluster.cri.containers import TimedOut
from igw_cluster.cri.errors import Failed, NotFound, Unsupported
from igw_cluster.cri.images import ImageError

log = logging.getLogger(__name__)

_CODES: dict[type[Exception], grpc.StatusCode] = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    ImageError: grpc.StatusCode.NOT_FOUND,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    Failed: grpc.StatusCode.UNKNOWN,
    OSError: grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One method: the class of its request and the function that answers it."""

    request: type[Message]
    answer: Callable[[Any], Message]


def service(name: str, calls: dict[str, Call]) -> grpc.GenericRpcHandler:
    """The service `name` with one method for each entry."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            _answering(method, call.answer),
            request_deserializer=call.request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for method, call in calls.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def _answering(method: str, answer: Callable[[Any], Message]) -> Callable[[Any, grpc.ServicerContext], Message]:
    def handle(request: Any, context: grpc.ServicerContext) -> Message:
        try:
            return answer(request)
        except tuple(_CODES) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            log.info("call failed method=%s code=%s error=%s", method, code.name, error)
            context.abort(code, str(error))
            raise AssertionError("abort raises") from None

    return handle
