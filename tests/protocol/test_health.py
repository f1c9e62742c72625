"""gRPC health checking, by which proxies learn whether to ask this picker. Bytes are written out: no shared classes."""

import grpc.aio
import pytest

from igw_testing.picker import PickerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVING = b"\x08\x01"  # field 1, the enum's value 1


@pytest.mark.parametrize("service", ["", "liveness", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"])
async def test_a_picker_that_has_its_objects_is_serving(plain: PickerProcess, service: str) -> None:
    """Under every name that proxies ask for."""
    assert await plain.check(service) == SERVING


async def test_an_unknown_service_is_not_found(plain: PickerProcess) -> None:
    """As the health checking protocol demands, by status and not by answer."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plain.check("some.other.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_malformed_check_is_an_invalid_argument(plain: PickerProcess) -> None:
    """And the connection goes on."""
    call = plain.channel.unary_unary("/grpc.health.v1.Health/Check")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\x0a\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await plain.check("liveness") == SERVING


@pytest.mark.parametrize(
    "method",
    ["/grpc.health.v1.Health/Watch", "/envoy.service.ext_proc.v3.ExternalProcessor/Other", "/some.Service/Process"],
)
async def test_an_unknown_method_is_unimplemented(plain: PickerProcess, method: str) -> None:
    """Clients then know that asking again is useless."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await plain.channel.unary_unary(method)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_readiness_is_also_told_over_http(plain: PickerProcess) -> None:
    """For those that do not speak gRPC."""
    assert await plain.get("/readyz") == (200, "ready\n")
