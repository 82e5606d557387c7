"""Mutations: the real code with one rule of the protocol removed, which a search must detect.

Each mutation is the smallest change that drops the rule: a patch of one function while a block runs, or a subclass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from ratchet.agent.membership import Membership
from ratchet.core import record_updates
from ratchet.core.model import Link, Side
from ratchet.core.plan import Attempt, Build, Create, Done, MarkReady, Observe, Step, plan
from ratchet.core.pod import Pod, Topology
from ratchet.core.underlay import Underlay
from ratchet.errors import SupersededError, TopologiesUnknownError
from ratchet.node import add, attach, delete, endpoint_reconcile
from ratchet.node.attach import OwnEnd
from ratchet.node.call import Call
from ratchet.node.endpoint_progress import EndpointResult, Progress
from ratchet.node.endpoint_reconcile import EndpointReconcile
from ratchet.node.journal import HeldEnd, SandboxEntry
from ratchet.node.reconciler import Reconciler
from ratchet.node.record_writer import RecordWriter
from ratchet.store.api_errors import AlreadyExistsError
from ratchet.store.apiserver import MERGE_PATCH
from ratchet.store.interface import Store
from ratchet.store.links import LinkStore
from ratchet.store.session import Json
from ratchet.store.store import ApiStore
from ratchet.store.topologies import TopologyStore
from tests.protocol.asking import FakeApi, current_driver
from tests.protocol.scenes import Rules


@dataclass(frozen=True)
class Mutation:
    """A removed rule: the rules of the scene, and a context manager that patches the code."""

    rules: Rules = Rules()  # noqa: RUF009  # frozen
    patched: Callable[[], AbstractContextManager[Any]] = nullcontext


class UnversionedApi(FakeApi):
    """Patches have no resourceVersion as precondition."""

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        body = json.loads(json.dumps(body))
        body["metadata"].pop("resourceVersion", None)
        return super().patch(path, body)


class OverwritingApi(FakeApi):
    """Creating a record replaces an existing one."""

    def create(self, path: str, body: Json) -> Json:
        try:
            return super().create(path, body)
        except AlreadyExistsError:
            if not path.endswith("/configmaps"):
                raise
            existing = f"{path}/{body['metadata']['name']}"
            super().delete(existing, uid=super().get(existing)["metadata"]["uid"])
            return super().create(path, body)


class UidOnlyDeleteApi(FakeApi):
    """Deletions have the UID as their only precondition."""

    def delete(self, path: str, *, uid: str, resource_version: str = "", grace_seconds: int | None = None) -> None:
        super().delete(path, uid=uid)


@contextmanager
def ignoring_tombstones_after_join() -> Iterator[None]:
    """ADD checks the tombstone only before it joins and at its end."""

    def plan_ignoring_tombstones(
        attempt: Attempt, record: Link | None, underlay: Underlay, *, joined: bool, deleted: bool, **given: Any
    ) -> Step:
        return plan(attempt, record, underlay, joined=joined, deleted=deleted and not joined, **given)

    with patch.object(endpoint_reconcile, "plan", plan_ignoring_tombstones):
        yield


@contextmanager
def checking_tombstones_only_before_join() -> Iterator[None]:
    """ADD checks the tombstone only before it joins: not before it records readiness, and not at its end."""
    with (
        ignoring_tombstones_after_join(),
        patch("tests.protocol.scenes._refuse_deleted", lambda _: None),
        patch.object(add, "_refuse_deleted", lambda _: None),
    ):
        yield


@contextmanager
def never_checking_tombstones() -> Iterator[None]:
    with patch.object(Call, "is_deleted", lambda _: False):
        yield


@contextmanager
def leaving_unconditionally() -> Iterator[None]:
    """A leaving sandbox clears the end, even if another sandbox has taken it."""

    known_sides: dict[tuple[str, str], Side] = {}
    leave_links, withdraw = delete._leave_links, EndpointReconcile._withdraw

    def leave_recording_sides(call: Call, entry: SandboxEntry, reason: str) -> None:
        known_sides.update({(entry.attachment.container_id, end.link): end.side for end in entry.ends})
        leave_links(call, entry, reason)

    def withdraw_recording_side(self: EndpointReconcile, progress: Progress, reason: str) -> SupersededError:
        known_sides[self._attempt.container_id, self._attempt.name] = self._attempt.side
        return withdraw(self, progress, reason)

    def clear(self: RecordWriter, link: str, container_id: str, reason: str) -> None:
        def left(record: Link) -> Link:
            # The side of a sandbox without journal entry is found by its pod's name, with which the ID begins.
            names = {record.end(side).name: side for side in Side}
            side = known_sides.get((container_id, link)) or names.get(container_id.rpartition("-")[0])
            existing = record.sandbox(side) if side else None
            if side is None or existing is None:
                return record
            return record_updates.leave(record, side, existing.container_id, reason, self.now())

        self.change(link, left)

    with (
        patch.object(RecordWriter, "leave", clear),
        patch.object(delete, "_leave_links", leave_recording_sides),
        patch.object(EndpointReconcile, "_withdraw", withdraw_recording_side),
    ):
        yield


@contextmanager
def readiness_as_a_flag() -> Iterator[None]:
    """Readiness is a flag: an end stays ready when its peer is replaced."""
    with patch.object(Link, "is_ready", lambda self, side: self.end(side).ready is not None):
        yield


@contextmanager
def trusting_the_record() -> Iterator[None]:
    """An end that the record has as ready is not observed."""

    def plan_trusting_record(attempt: Attempt, record: Link | None, underlay: Underlay, **given: Any) -> Step:
        step = plan(attempt, record, underlay, **given)
        return Done() if isinstance(step, Observe) and record and record.is_ready(attempt.side) else step

    with patch.object(endpoint_reconcile, "plan", plan_trusting_record):
        yield


@contextmanager
def marking_ready_before_building() -> Iterator[None]:
    def plan_marking_early(attempt: Attempt, record: Link | None, underlay: Underlay, **given: Any) -> Step:
        step = plan(attempt, record, underlay, **given)
        marks_early = (
            isinstance(step, Observe | Create | Build)
            and record is not None
            and record.kind is not None
            and not record.is_ready(attempt.side)
        )
        return MarkReady() if marks_early else step

    with patch.object(endpoint_reconcile, "plan", plan_marking_early):
        yield


@contextmanager
def reading_outside_the_lock() -> Iterator[None]:
    """The lock is held only for building and recording. The record is read before."""

    def reconcile(self: Reconciler, attempt: Attempt, underlay: Underlay, *, joined: bool) -> EndpointResult:
        def decide() -> EndpointResult:
            record = self.store.links.get(attempt.name)
            with self.journal.lock(attempt.name):
                writer = RecordWriter(_with_stale_read(self.store, record), self.now)
                return EndpointReconcile(
                    writer, self.journal, self.sandbox_state, attempt, underlay, self.verified, joined=joined
                ).run()

        return current_driver().retry_on_conflict(decide)

    with patch.object(Reconciler, "reconcile", reconcile):
        yield


@contextmanager
def destroying_from_cache() -> Iterator[None]:
    """A cached record is never compared with the API before an interface is removed."""
    with patch.object(EndpointReconcile, "_needs_certainty", lambda *_: False):
        yield


@contextmanager
def naming_by_declarer() -> Iterator[None]:
    """Each pod uses a link under the record name and the roles of its own declaration."""
    held_end = attach._held_end

    def named(store: Store, pod: Pod, end: attach.OwnEnd) -> HeldEnd:
        wanted, side = end
        own = next((one for one in wanted.declarations if one.is_declared_by(pod)), None)
        if own is None:
            return held_end(store, pod, end)
        side = next(each for each in Side if own.endpoint(each) == wanted.endpoint(side))
        return HeldEnd(own.link, side)

    with patch.object(attach, "_held_end", named):
        yield


@contextmanager
def treating_forbidden_as_empty() -> Iterator[None]:
    """A namespace whose topologies cannot be listed counts as one without topologies."""
    listed = TopologyStore.list

    def topologies(self: TopologyStore, namespace: str) -> list[Topology]:
        try:
            return listed(self, namespace)
        except TopologiesUnknownError:
            return []

    with patch.object(TopologyStore, "list", topologies):
        yield


@contextmanager
def treating_unreadable_as_undeclared() -> Iterator[None]:
    """A link that no readable declaration contains counts as undeclared."""
    declared_now = Membership._declared_now

    def readable(self: Membership, entry: SandboxEntry, end: HeldEnd, pod: Pod) -> list[OwnEnd]:
        return declared_now(self, entry, end, pod) or []

    with patch.object(Membership, "_declared_now", readable):
        yield


class _StaleLinks(LinkStore):
    """Records whose first read returns an earlier version."""

    def __init__(self, store: ApiStore, record: Link | None) -> None:
        super().__init__(store.api, store.namespace, store.vnis)
        self._stale = [record]

    def get(self, name: str) -> Link | None:
        return self._stale.pop() if self._stale else super().get(name)


def _with_stale_read(store: Store, record: Link | None) -> Store:
    assert isinstance(store, ApiStore)
    other = copy(store)
    other.links = _StaleLinks(store, record)
    return other


MUTATIONS = {
    "no lock": Mutation(Rules(locking=False)),
    "the record is read outside the lock": Mutation(patched=reading_outside_the_lock),
    "no look for the tombstone before the note": Mutation(patched=ignoring_tombstones_after_join),
    "no look for the tombstone once joined": Mutation(patched=checking_tombstones_only_before_join),
    "no look for the tombstone": Mutation(patched=never_checking_tombstones),
    "leaving without comparing": Mutation(patched=leaving_unconditionally),
    "readiness as a flag": Mutation(patched=readiness_as_a_flag),
    "writing without a version": Mutation(Rules(api=UnversionedApi)),
    "deleting without a version": Mutation(Rules(api=UidOnlyDeleteApi)),
    "creating over a record": Mutation(Rules(api=OverwritingApi)),
    "believing the record": Mutation(patched=trusting_the_record),
    "destroying from memory": Mutation(patched=destroying_from_cache),
    "noting before building": Mutation(patched=marking_ready_before_building),
}
