"""The objects in memory: newest versions only, and suspicion where the watch may have gaps."""

from typing import Any

from igw_api.objects import Key
from igw_api.wire import MANAGED_BY, MANAGED_BY_LABEL
from igw_operator.controller.resources import POOL, SERVICE
from igw_operator.controller.store import Store

KEY = Key("ns", "x")


class Counting(Store):
    """A store that counts its changes."""

    def __init__(self) -> None:
        self.changes = 0
        super().__init__(changed=self._count)

    def _count(self) -> None:
        self.changes += 1


def body(version: int = 1, uid: str = "u", name: str = "x", **rest: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}, **rest}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    """The answer to a write may overtake the watch."""
    store = Counting()
    store.put(POOL, body(20, spec={"a": 2}))
    store.put(POOL, body(9, spec={"a": 1}))
    assert store.get(POOL, KEY) == body(20, spec={"a": 2})


def test_a_version_without_a_difference_is_no_change() -> None:
    """Such as the watch's echo of our own write."""
    store = Counting()
    store.put(POOL, body(1, spec={}))
    store.put(POOL, body(2, spec={}))
    assert store.changes == 1


def test_the_end_of_an_object_does_not_take_its_successor() -> None:
    """Events of two objects of one name may come in any order."""
    store = Counting()
    store.put(POOL, body(5, uid="new"))
    store.drop(POOL, KEY, "old")
    assert store.get(POOL, KEY) is not None
    store.drop(POOL, KEY, "new")
    assert store.get(POOL, KEY) is None


def test_of_others_services_only_the_name_is_kept() -> None:
    """There may be thousands."""
    store = Counting()
    store.put(SERVICE, body(spec={"ports": []}))
    assert store.get(SERVICE, KEY) == body()
    labelled = body(2, spec={"ports": []})
    labelled["metadata"]["labels"] = {MANAGED_BY_LABEL: MANAGED_BY}
    store.put(SERVICE, labelled)
    assert store.get(SERVICE, KEY) == labelled


def test_a_listing_that_starts_anew_makes_its_kind_suspect() -> None:
    """It does not say what was deleted meanwhile; the first listing says nothing of that kind."""
    store = Counting()
    store.put(POOL, body(1), listed=True)
    assert not store.suspect
    store.put(POOL, body(1), listed=True)
    assert store.suspect == {POOL}


def test_an_audit_drops_what_is_gone_and_tells_what_is_missing() -> None:
    """What came after the listing began stays."""
    store = Counting()
    store.suspect.add(POOL)
    store.put(POOL, body(name="gone", uid="1"))
    store.put(POOL, body(name="again", uid="2"))
    before = store.listing(POOL)
    store.put(POOL, body(name="fresh", uid="3"))
    found = {Key("ns", "again"): "4", Key("ns", "unseen"): "5"}
    assert store.audit(POOL, before, found) == {Key("ns", "again"), Key("ns", "unseen")}
    assert set(store.view().of(POOL)) == {Key("ns", "fresh")}
    assert store.suspect == {POOL}
    for name, uid in (("again", "4"), ("unseen", "5")):
        store.put(POOL, body(name=name, uid=uid))
    assert not store.audit(POOL, store.listing(POOL), {**found, Key("ns", "fresh"): "3"})
    assert not store.suspect
