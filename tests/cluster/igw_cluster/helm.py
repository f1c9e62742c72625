"""Helm as a function, with its own home, so that a person's Helm is neither used nor changed."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class HelmFailed(Exception):
    """Helm ended with an error; the message is its own."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Helm for one cluster. `home`: any folder for its caches."""

    program: Path
    kubeconfig: Path
    home: Path

    def __call__(self, *words: str, values: Mapping[str, Any] | None = None, within: float = 300.0) -> str:
        """Run it and return what it prints; `values` are given with `--values`. Raises HelmFailed, TimeoutExpired."""
        given = ("--values", "-") if values is not None else ()
        homes = {f"HELM_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [str(self.program), f"--kubeconfig={self.kubeconfig}", *words, *given],
            input=None if values is None else json.dumps(dict(values)),
            capture_output=True,
            text=True,
            check=False,
            timeout=within,
            env=os.environ | homes,
        )
        if done.returncode:
            raise HelmFailed(f"helm {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
