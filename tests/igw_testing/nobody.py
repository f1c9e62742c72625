"""An address of this machine where nobody listens, and nobody else can."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nobody() -> Iterator[str]:
    """`127.0.0.1:port`, for as long as the context lasts: bound, so that no other program gets it, and refusing."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
