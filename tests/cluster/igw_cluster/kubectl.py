"""kubectl as a function: the way in which tests and people talk to the API server."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from igw_cluster import toolchain

_POLL_S: Final = 0.1


class KubectlFailed(Exception):
    """kubectl ended with an error; the message is its own."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl with one kubeconfig."""

    kubeconfig: Path

    def __call__(self, *words: str, stdin: str | None = None, within: float = 60.0) -> str:
        """Run it and return what it prints. Raises KubectlFailed, subprocess.TimeoutExpired."""
        done = self.run(*words, stdin=stdin, within=within)
        if done.returncode:
            raise KubectlFailed(f"kubectl {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def run(self, *words: str, stdin: str | None = None, within: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run it, whatever comes of it."""
        command = [str(toolchain.kubectl()), f"--kubeconfig={self.kubeconfig}", *words]
        # Discovery is cached on disk by address, and the next cluster may have this one's address.
        command.insert(1, f"--cache-dir={self.kubeconfig.with_suffix('.cache')}")
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=within)

    def apply(self, manifests: str | Path, *words: str) -> str:
        """Server-side apply of YAML text, a file or a folder."""
        source = ("-f", str(manifests)) if isinstance(manifests, Path) else ("-f", "-")
        text = None if isinstance(manifests, Path) else manifests
        return self("apply", "--server-side", "--force-conflicts", *source, *words, stdin=text)

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """One object. Raises KubectlFailed where there is none."""
        found: dict[str, Any] = json.loads(self("get", kind, name, *_in(namespace), "-o", "json"))
        return found

    def list(self, kind: str, namespace: str | None = None, selector: str = "") -> Sequence[dict[str, Any]]:
        """Objects of a namespace, or of all."""
        where = _in(namespace) if namespace else ("-A",)
        chosen = ("-l", selector) if selector else ()
        found: Sequence[dict[str, Any]] = json.loads(self("get", kind, *where, *chosen, "-o", "json"))["items"]
        return found

    def until(self, is_so: Callable[[], bool], within: float, what: str) -> None:
        """Poll until it is so. An object that is not there yet counts as not so. Raises TimeoutError."""
        deadline = time.monotonic() + within
        last = ""
        while time.monotonic() < deadline:
            try:
                if is_so():
                    return
            except KubectlFailed as error:
                last = f" ({error})"
            time.sleep(_POLL_S)
        raise TimeoutError(f"not within {within:.0f} s: {what}{last}")


def _in(namespace: str | None) -> tuple[str, ...]:
    return ("-n", namespace) if namespace else ()
