"""What a person needs to see why a test on the cluster failed: written to a folder when it has."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

from igw_cluster.kubectl import Kubectl

# File name -> what is asked for it.
_VIEWS: Final = {
    "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
    "objects.txt": ("get", "all,endpointslices,configmaps", "-A", "-o", "wide"),
    "pods.txt": ("describe", "pods", "-A"),
    "nodes.txt": ("describe", "nodes"),
}
_EACH_S: Final = 20.0
_EVENTS: Final = 30
_LINES: Final = 15


def dump(kubectl: Kubectl, logs: Path, target: Path) -> Path:
    """Events, objects, what all Pods printed (also before their last restart) and the components' logs, in `target`.

    Takes what it can get: a dead API server leaves its reason in place of the answer.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file, words in _VIEWS.items():
        (target / file).write_text(_answer(kubectl, *words))
    for namespace, pod in _pods(kubectl):
        place = target / "pods" / f"{namespace}_{pod}.log"
        place.parent.mkdir(exist_ok=True)
        words = ("logs", pod, "-n", namespace, "--all-containers", "--prefix", "--tail=2000")
        place.write_text(_answer(kubectl, *words, "--previous") + "\n--- now ---\n" + _answer(kubectl, *words))
    if logs.is_dir():
        shutil.copytree(logs, target / "components", dirs_exist_ok=True)
    return target


def summary(folder: Path, pods: str = "*") -> str:
    """What a dump says at a glance: Pods, the last events, and the last lines of the Pods that match."""
    objects = (folder / "objects.txt").read_text().splitlines()
    events = (folder / "events.txt").read_text().splitlines()[-_EVENTS:]
    logs = sorted((folder / "pods").glob(f"{pods}.log"))
    ends = ("\n".join((f"--- {log.stem}", *log.read_text().splitlines()[-_LINES:])) for log in logs)
    return "\n\n".join(("\n".join(line for line in objects if " pod/" in line), "\n".join(events), *ends))


def _answer(kubectl: Kubectl, *words: str) -> str:
    try:
        done = kubectl.run(*words, within=_EACH_S)
    except subprocess.TimeoutExpired as error:
        return f"no answer: {error}\n"
    return done.stdout + done.stderr


def _pods(kubectl: Kubectl) -> list[tuple[str, str]]:
    try:
        found = json.loads(_answer(kubectl, "get", "pods", "-A", "-o", "json"))
    except ValueError:
        return []
    return [(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in found["items"]]
