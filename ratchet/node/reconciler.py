"""Where what is wanted and what is actual meet: asks the plan for the next step of an end, and does it.

Reading the record, building and noting are one critical section per link on this node (the journal's lock), which is
never held while waiting for a peer. Nothing here decides; `core.plan` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

import tenacity

from ratchet import datapath
from ratchet.core import moves
from ratchet.core.device import Observed, Wire
from ratchet.core.model import Kind, Link, Side
from ratchet.core.plan import Attempt, Build, Done, Join, Look, Note, Number, Site, Step, Wait, Withdraw, plan
from ratchet.errors import ConflictError, DatapathError, ForeignInterfaceError, NamespaceError, SupersededError
from ratchet.node.journal import Journal
from ratchet.store.records import Records

Decided = TypeVar("Decided")

log = logging.getLogger(__name__)

CONFLICT_SECONDS = 30.0
BUILDS = 3


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Reconciler:
    """The ends of one node's sandboxes.

    `records` is what the API remembers, `journal` what the node does; `deleted` says whether the runtime has deleted
    a sandbox, by container id; `now` is the wall clock, for people who read the records.
    """

    records: Records
    journal: Journal
    deleted: Callable[[str], bool]
    now: Callable[[], datetime] = wall_clock

    def join(self, attempt: Attempt, site: Site) -> Link:
        """The record with the attempt's sandbox written into it.

        Raises SupersededError where the runtime has deleted the sandbox.
        """
        return _until_undisputed(lambda: self._try_to_join(attempt, site))

    def settle(self, attempt: Attempt, site: Site) -> Wait | Done:
        """Take the end of an attempt that has joined as far as it goes now.

        Raises SupersededError, with the end taken down, where another sandbox has its place or the runtime has deleted
        it; DatapathError where the kernel refuses.
        """
        with self.journal.lock(attempt.name):
            return _until_undisputed(lambda: self._try_to_settle(attempt, site))

    def leave(self, link: str, side: Side, container_id: str, reason: str) -> None:
        """Take a sandbox out of its link's record, if it is still the one there; the last to leave ends the record.

        The caller holds the link's lock and has taken the end down. Repeated, it does nothing.
        """
        _until_undisputed(lambda: self._try_to_leave(link, side, container_id, reason))

    def _try_to_join(self, attempt: Attempt, site: Site) -> Link:
        record = self.records.link(attempt.name)
        deleted = self.deleted(attempt.container_id)
        step = plan(attempt, record, site, joined=False, deleted=deleted, observed=None)
        if isinstance(step, Withdraw):
            raise SupersededError(f"cannot link pod {attempt.sandbox.pod}: {step.reason}")
        # Also where the record holds this sandbox already: its intent may be an earlier one's.
        return self._write(record, moves.join(record, attempt.wanted, attempt.side, attempt.sandbox, self.now()))

    def _try_to_settle(self, attempt: Attempt, site: Site) -> Wait | Done:
        record = self.records.link(attempt.name)
        observed: Observed | None = None
        builds = 0
        while True:
            deleted = self.deleted(attempt.container_id)
            step: Step = plan(attempt, record, site, joined=True, deleted=deleted, observed=observed)
            match step:
                case Wait() | Done():
                    return step
                case Number():
                    record = self._write(record, _present(record, attempt))
                case Note():
                    standing = moves.note_standing(_present(record, attempt), attempt.side, self.now())
                    record = self._write(record, standing)
                case Look(wire):
                    if (observed := _looked_at(wire)) is None:
                        return Wait()
                case Build(wire):
                    if builds == BUILDS:
                        raise DatapathError(f"cannot make {wire.near.ifname} of {attempt.name}: it does not stay made")
                    builds += 1
                    if (observed := _built(wire)) is None:
                        return Wait()
                case Withdraw(reason):
                    self._give_way(attempt, reason)
                case Join():
                    raise AssertionError("the plan had an attempt join that has joined")

    def _give_way(self, attempt: Attempt, reason: str) -> NoReturn:
        sandbox = attempt.sandbox
        ifname = attempt.wanted.end(attempt.side).ifname
        take_down(self.journal, attempt.container_id, sandbox.netns, ifname)
        self.leave(attempt.name, attempt.side, attempt.container_id, reason)
        raise SupersededError(f"cannot link pod {sandbox.pod}: {reason}")

    def _try_to_leave(self, link: str, side: Side, container_id: str, reason: str) -> None:
        record = self.records.link(link)
        if record is not None:
            self._write(record, moves.leave(record, side, container_id, reason, self.now()))

    def _write(self, before: Link | None, after: Link) -> Link:
        """Have the record be `after`, which was decided on `before`. Raises ConflictError."""
        if before is None:
            return self.records.create(after)
        if after.abandoned:
            self.records.delete(before)
            return after
        if after.kind is Kind.VXLAN and after.vni is None:
            return self._write_numbered(before, after)
        return before if after == before else self.records.update(before, after)

    def _write_numbered(self, before: Link, after: Link) -> Link:
        numbered = self.records.numbered(after)
        try:
            return self.records.update(before, numbered)
        except ConflictError:
            self._give_back(numbered)
            raise

    def _give_back(self, numbered: Link) -> None:
        """Free a VNI that was claimed and not written, unless its record may yet take it."""
        current = self.records.link(numbered.name)
        may_take_it = current is not None and current.uid == numbered.uid and current.vni in (None, numbered.vni)
        if numbered.vni is not None and not may_take_it:
            self.records.release_vni(numbered.vni, numbered.uid)


def take_down(journal: Journal, container_id: str, netns: str, ifname: str) -> None:
    """Remove a sandbox's end, unless a newer sandbox has one of that name in the very same namespace.

    One that is gone, with its namespace or alone, or that is not ours, is nothing to remove.
    """
    if netns and not journal.another_has(container_id, netns, ifname):
        with suppress(ForeignInterfaceError):
            datapath.remove(netns, ifname)


def _looked_at(wire: Wire) -> Observed | None:
    """What stands; None where nothing can be wired before the peer's pod is put right."""
    return _unless_for_the_peer(wire, lambda: datapath.observe(wire))


def _built(wire: Wire) -> Observed | None:
    """What stands once the wire was made; None where it cannot be made before the peer's pod is put right."""

    def build() -> Observed:
        datapath.ensure(wire)
        return datapath.observe(wire)

    return _unless_for_the_peer(wire, build)


def _unless_for_the_peer(wire: Wire, act: Callable[[], Observed]) -> Observed | None:
    """What `act` gives; None where it fails for something in the peer's namespace, which is the peer's to report."""
    try:
        return act()
    except NamespaceError as error:
        if error.path == wire.near.netns:
            raise
        log.warning("the peer's end of %s cannot be made: %s", wire.link, error)
        return None


def _present(record: Link | None, attempt: Attempt) -> Link:
    if record is None:
        raise AssertionError(f"the plan had {attempt.name} written without a record")
    return record


def _until_undisputed(decide: Callable[[], Decided]) -> Decided:
    """Decide again, on what is stored by then, for as long as others' writes come between; bounded and jittered."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConflictError),
        wait=tenacity.wait_random_exponential(multiplier=0.01, max=0.5),
        stop=tenacity.stop_after_delay(CONFLICT_SECONDS),
        reraise=True,
    )
    return retrying(decide)
