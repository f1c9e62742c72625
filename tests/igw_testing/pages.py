"""What pages of documentation tell a reader to type."""

import re
import shlex
from collections.abc import Sequence

# These need a cluster; tests/cluster_e2e runs them.
_OF_CLUSTERS = ("helm", "kubectl")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Every command of the page's `sh` blocks, in order, as words."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def of_clusters(words: Sequence[str]) -> bool:
    """Whether a command talks to a Kubernetes cluster."""
    return words[0] in _OF_CLUSTERS
