"""Known weaknesses of all pinned packages, by pip-audit: `make audit`.

pip-audit is installed into an environment of its own, `.audit`. What it finds is an error; that it cannot be had, or
reaches nobody to ask, is said and is none: a check that fails without a network would be switched off.
"""

import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

from igw_testing.supply_chain import ROOT

VERSION: Final = "2.10.1"
TIMEOUT_S: Final = 240.0
FOLDER: Final = ROOT / ".audit"
LOCKS: Final = ("requirements.lock", "requirements-runtime.lock", "requirements-build.lock")
FOUND, CLEAN, NOT_ASKED = 1, 0, 0


def installed(folder: Path = FOLDER) -> Path | None:
    """The program, installed where it is not there yet. None: it cannot be had."""
    program = folder / "bin" / "pip-audit"
    if program.exists():
        return program
    venv.create(folder, with_pip=True, clear=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = _run([*command, f"pip-audit=={VERSION}"])
    return program if done is not None and done.returncode == 0 else None


def audit(program: Path, lock: Path) -> tuple[int, str]:
    """The exit code for one lock file, and what to say."""
    done = _run(
        [str(program), "--requirement", str(lock), "--require-hashes", "--disable-pip", "--progress-spinner=off"]
    )
    if done is None:
        return NOT_ASKED, f"{lock.name}: not audited: no answer within {TIMEOUT_S:g} s"
    if done.returncode == 0:
        return CLEAN, f"{lock.name}: no known weaknesses"
    if "Fix Versions" in done.stdout:
        return FOUND, f"{lock.name}:\n{done.stdout}"
    words = (done.stderr or done.stdout).strip().splitlines()
    return NOT_ASKED, f"{lock.name}: not audited: {words[-1] if words else 'pip-audit said nothing'}"


def _run(command: list[str]) -> "subprocess.CompletedProcess[str] | None":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None


def main() -> int:
    """Every lock file; 1 if any package has a known weakness."""
    program = installed()
    if program is None:
        print("not audited: pip-audit could not be installed")
        return NOT_ASKED
    results = [audit(program, ROOT / name) for name in LOCKS]
    print("\n".join(text for _, text in results))
    return max(code for code, _ in results)


if __name__ == "__main__":
    sys.exit(main())
