"""The command line: `igw NAME` runs the entry point NAME of the group `igw.commands`.

Nothing of ours is imported here: the planes share a command line only, and none waits for another's modules to load.
"""

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Final

GROUP: Final = "igw.commands"
_REFUSED: Final = 2


def main() -> None:
    """The `igw` command: the first word names the command, the rest is its own."""
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(_usage(commands))
        return
    if name not in commands:
        print(f"igw: no command {name!r}; there are {', '.join(sorted(commands))}", file=sys.stderr)
        sys.exit(_REFUSED)
    sys.argv = [f"igw {name}", *sys.argv[2:]]
    commands[name].load()()


def _usage(commands: dict[str, EntryPoint]) -> str:
    lines = ["usage: igw COMMAND [OPTIONS]", "", "commands (igw COMMAND --help says more):"]
    return "\n".join([*lines, *(f"  {name:8} {_SUMMARIES.get(name, '')}".rstrip() for name in sorted(commands))])


# Here, not at the commands: the help must not load every plane.
_SUMMARIES = {
    "up": "run the gateway on this machine from manifest files",
    "picker": "run the endpoint picker alone",
    "operator": "run the operator of a Kubernetes cluster",
    "sim": "run simulated engines",
    "demo": "gateway and simulated engines in one command",
    "bench": "measure gateways and placement policies",
    "sidecar": "divide requests before an engine that decodes",
    "explain": "why a request went where it went",
    "top": "watch pools, endpoints and queues",
}
