"""From manifests to the files of Envoy and the picker, and what to say about it.

Used by `standalone`. It decides and writes; it starts nothing and prints nothing. Whatever is wrong with an update,
the files stay as they were or get all of the update that is right.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from igw_api.manifests import collect
from igw_api.objectset import ObjectSet, dump
from igw_operator import envoy, state
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import Condition, GatewayPlan
from igw_operator.ports import Binds, Places
from igw_operator.render.bootstrap import BOOTSTRAP_FILE, bootstrap, everything, resource_files
from igw_operator.render.files import Surroundings
from igw_operator.settings import UpSettings
from igw_operator.sources import Manifests

OBJECTS_FILE = "objects.json"
CHECK_FILE = "check.json"


@dataclass(frozen=True, slots=True)
class Intent:
    """What the manifests ask for, and what is wrong with it.

    `problems` are mistakes to correct; `warnings` may pass by themselves, as when an endpoint comes later.
    """

    objects: ObjectSet
    plan: GatewayPlan
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(slots=True)
class Configuration:
    """The current intent and its files."""

    settings: UpSettings
    manifests: Manifests
    places: Places
    binary: Path
    binds: Binds = field(init=False)
    intent: Intent | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        own = frozenset((self.places.admin, self.places.picker, self.places.metrics))
        self.binds = Binds(self.settings.listen_host, self.settings.listens, own)

    @property
    def current(self) -> Intent:
        """What was written last."""
        assert self.intent is not None, "write() comes first"
        return self.intent

    @property
    def directory(self) -> Path:
        """The state directory, absolute."""
        return self.settings.state_dir

    def read(self) -> Intent:
        """What the manifests say now."""
        objects, problems = collect(self.manifests.read())
        objects = objects.merge(ObjectSet.of(self.settings.members))
        plan, conditions = build_plan(objects, first_byte=self.settings.first_byte)
        refused = self.binds.assign(plan.listeners)
        possible = tuple(one for one in plan.listeners if (one.gateway, one.port) not in refused)
        return Intent(
            objects=objects,
            plan=replace(plan, listeners=possible),
            # With a mistake in a file, what is missing may be in that file.
            problems=(
                *map(str, problems),
                *_mistakes(conditions),
                *refused.values(),
                *(() if problems else _nothing_exposed(plan)),
            ),
            warnings=tuple(str(one) for one in conditions if not one.status and one.type != "Accepted"),
        )

    async def check(self, intent: Intent) -> None:
        """Ask Envoy about it. Raises ConfigRefused."""
        path = self.directory / CHECK_FILE
        state.replace(path, everything(intent.plan, self._surroundings()).encode())
        await envoy.validate(self.binary, path)

    def write(self, intent: Intent) -> bool:
        """Make it so. Clusters that are no longer led to stay until `settle`. Returns whether any file changed."""
        before = self.intent.plan.clusters if self.intent else ()
        names = {cluster.name for cluster in intent.plan.clusters}
        leaving = tuple(cluster for cluster in before if cluster.name not in names)
        self.intent = intent
        changed = state.replace(self.directory / OBJECTS_FILE, dump(intent.objects))
        plan = replace(intent.plan, clusters=(*intent.plan.clusters, *leaving))
        state.replace(self.directory / BOOTSTRAP_FILE, bootstrap(self._surroundings()).encode())
        return bool(state.replace_all(self.directory, resource_files(plan, self._surroundings()))) or changed

    def settle(self) -> None:
        """Remove what no route leads to any more. Called some time after `write`, when Envoy has the new routes."""
        if self.intent is not None:
            files = resource_files(self.intent.plan, self._surroundings())
            state.replace_all(self.directory, files)
            state.remove_others(self.directory, files)

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            directory=str(self.directory),
            admin=self.places.admin,
            picker=self.places.picker,
            binds=self.binds.given,
            access_log=self.settings.access_log,
        )


def _mistakes(conditions: Iterable[Condition]) -> list[str]:
    return [str(one) for one in conditions if not one.status and one.type == "Accepted"]


def _nothing_exposed(plan: GatewayPlan) -> tuple[str, ...]:
    if not plan.listeners:
        return ("there is no Gateway in the manifests, so no port would be opened; add one with a listener",)
    if not any(listener.hosts for listener in plan.listeners):
        return ("no route leads anywhere: annotate an InferencePool with attach-to, or add an HTTPRoute",)
    return ()
