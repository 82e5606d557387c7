"""Where what is wanted and what is actual meet: asks the plan for the next step of an end, and does it.

Reading the record, building and noting are one critical section per link on this node (the journal's lock), which is
never held while waiting for a peer. Nothing here decides; `core.plan` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NoReturn, TypeVar

import tenacity

from ratchet import datapath
from ratchet.core import record_updates
from ratchet.core.interface import Device, Observed, VxlanWire, Wire, differences
from ratchet.core.model import Kind, Link, Location
from ratchet.core.plan import (
    AllocateVni,
    Attempt,
    Build,
    Create,
    Done,
    Join,
    MarkReady,
    Observe,
    Reject,
    Release,
    Step,
    Underlay,
    Wait,
    plan,
)
from ratchet.errors import (
    ConflictError,
    DatapathError,
    ForeignInterfaceError,
    NamespaceError,
    NamespaceGoneError,
    NewerRecordError,
    RatchetError,
    SupersededError,
    VniForeignError,
    VniInUseError,
)
from ratchet.node.journal import Journal
from ratchet.node.verified import VerifiedEnds
from ratchet.retry import call_with_retries
from ratchet.store.records import Records

Decided = TypeVar("Decided")

log = logging.getLogger(__name__)

CONFLICT_SECONDS = 30.0
BUILDS = 3
ANOTHER_LINKS = "another link holds its Lease"


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """How far an end has come: its link's record as it is stored now, and the device that stands by it, if it does."""

    record: Link
    device: Device | None = None

    @property
    def is_up(self) -> bool:
        return self.device is not None


@dataclass(frozen=True, slots=True)
class Reconciler:
    """The ends of one node's sandboxes.

    `records` is what the API remembers, `journal` what the node does; `deleted` says whether the runtime has deleted
    a sandbox, by container id; `verified` is told which ends stand; `now` is the wall clock, for people who read the
    records.
    """

    records: Records
    journal: Journal
    deleted: Callable[[str], bool]
    verified: VerifiedEnds = field(default_factory=VerifiedEnds)
    now: Callable[[], datetime] = wall_clock

    def settle(self, attempt: Attempt, site: Underlay, *, joined: bool) -> EndpointResult:
        """Take an end as far as it goes now: into its link's record first, unless the attempt has `joined` before.

        An end whose peer is there is built before it is written that it has joined: both go into one write. Raises
        SupersededError, with the end taken down, where another sandbox has its place or the runtime has deleted it;
        DatapathError where the kernel refuses; AddressFamilyError or InvalidIntentError, with the record written, where
        the link cannot be made.
        """
        with self.journal.lock(attempt.name):
            settled = retry_on_conflict(lambda: EndpointReconcile(self, attempt, site, joined).run())
            side = attempt.as_recorded(settled.record).side
            self.verified.note(settled.record, side, site, up=settled.is_up)
            return settled

    def leave(self, link: str, container_id: str, reason: str) -> None:
        """Take a sandbox out of its link's record, if the record holds it; the last to leave ends the record.

        The caller holds the link's lock and has taken the end down. Repeated, it does nothing. Raises NewerRecordError,
        the sandbox taken out all the same, where only newer versions may use the record.
        """

        def left(record: Link) -> Link:
            side = record.side_of(container_id)
            return record if side is None else record_updates.leave(record, side, container_id, reason, self.now())

        try:
            self._change(link, left)
        except NewerRecordError:
            retry_on_conflict(lambda: self.records.leave_newer(link, container_id))
            raise

    def mark_lost(self, link: str, container_id: str, reason: str) -> None:
        """Note that an end does not stand any more, if the record holds this sandbox."""

        def lost(record: Link) -> Link:
            side = record.side_of(container_id)
            return record if side is None else record_updates.mark_lost(record, side, reason, self.now())

        self._change(link, lost)

    def assert_vni(self, link: str) -> None:
        """Have the record of a link hold the Lease of its VNI, or renumber it. Raises RatchetError."""
        with self.journal.lock(link):
            retry_on_conflict(lambda: self._assert_vni(link))

    def _assert_vni(self, name: str) -> None:
        record = self.records.link(name)
        if record is not None and record.vni is not None and not self.records.hold_vni(record):
            self.renumber(record, record, ANOTHER_LINKS, refused=False)

    def renumber(self, before: Link, draft: Link, reason: str, *, refused: bool) -> Link:
        """The record as stored with another VNI than `draft` has; `before` is what is stored so far.

        The new number is written before the old Lease is freed. The old Lease is the record's only where a node has
        `refused` the number.
        """
        renumbered = record_updates.renumber(
            draft, self.records.claim_another_vni(draft), reason, self.now(), refused=refused
        )
        try:
            stored = self.write(before, renumbered)
        except ConflictError:
            self.free_unused_vni(renumbered)
            raise
        log.warning("VNI renumbered link=%s from=%s to=%s reason=%r", stored.name, draft.vni, stored.vni, reason)
        if refused and draft.vni is not None:
            self.records.release_vni(draft.vni, stored.uid)
        return stored

    def free_unused_vni(self, claimed: Link) -> None:
        """Free a VNI that was claimed for a record, unless the record has it or may yet take it."""
        if claimed.vni is not None and self.taker(claimed) is None:
            self.records.release_vni(claimed.vni, claimed.uid)

    def taker(self, claimed: Link) -> Link | None:
        """The record for which a VNI was claimed, if it has it or may yet take it."""
        current = self.records.link(claimed.name)
        if current is None or current.uid != claimed.uid:
            return None
        return current if current.vni in (None, claimed.vni) else None

    def write(self, before: Link | None, after: Link) -> Link:
        """Have the record be `after`, which was decided on `before`. Raises ConflictError."""
        if before is None:
            return self.records.create(after)
        if after.abandoned:
            self.records.delete(before)
            return after
        return before if after == before else self.records.update(before, after)

    def _change(self, link: str, move: Callable[[Link], Link]) -> None:
        """Make a move on a record. That there is nothing to do is believed of the API alone, never of memory."""

        def try_once() -> None:
            record, certain = self.records.known_link(link)
            if not certain and (record is None or move(record) == record):
                record = self.records.link(link)
            if record is not None:
                self.write(record, move(record))

        retry_on_conflict(try_once)


class EndpointReconcile:
    """One pass over one end, under its link's lock.

    `draft` is the record as it is going to be written; what is stored may lag behind it until the end stands. From
    memory nothing is destroyed: before that the record is read from the API.
    """

    def __init__(self, reconciler: Reconciler, attempt: Attempt, site: Underlay, joined: bool) -> None:
        self._reconciler = reconciler
        self._attempt = attempt
        self._site = site
        self._joined = self._joined_before = joined
        self._observed: Observed | None = None
        self._built: Wire | None = None
        self._bare = False  # whether the end was observed without interface or carrier
        self._builds = 0
        self._held_vni: int | None = None  # of which the record was seen to hold the Lease
        self._refused = 0
        self._claimed: Link | None = None
        self._stored, self._certain = reconciler.records.expected_link(attempt.name)
        self._draft = self._stored

    def run(self) -> EndpointResult:
        try:
            return self._steps()
        except ConflictError:
            self._free_claim()
            raise
        except Exception:
            with suppress(RatchetError):  # the Lease is then left to `ratchet gc`
                retry_on_conflict(self._account_for_claim)
            raise

    def _steps(self) -> EndpointResult:
        while (settled := self._done(self._next_step())) is None:
            pass
        return settled

    def _next_step(self) -> Step:
        while True:
            attempt = self._attempt = self._attempt.as_recorded(self._draft)
            deleted = self._reconciler.deleted(attempt.container_id)
            step = plan(
                attempt,
                self._draft,
                self._site,
                joined=self._joined,
                deleted=deleted,
                observed=self._observed,
                peer=self._peer_location(),
            )
            if not self._certain and self._needs_certainty(step):
                self._make_certain()
            elif not self._joined and not isinstance(step, Release):
                # Also where the record holds this sandbox already: its intent may be an earlier one's.
                return Join()
            else:
                return step

    def _done(self, step: Step) -> EndpointResult | None:
        """Do a step; how far the end has come, if it was the last."""
        attempt = self._attempt
        match step:
            case Join() if self._is_of_a_pod_that_is_gone():
                self._withdraw("its pod is gone, and another one of its name has its place")
            case Join():
                self._draft = record_updates.join(
                    self._draft, attempt.wanted, attempt.side, attempt.sandbox, self._now()
                )
                self._joined = True
            case AllocateVni():
                self._draft = self._claimed = self._reconciler.records.with_allocated_vni(self._present())
            case Observe() | Create() | Build():
                return self._done_to_the_wire(step)
            case MarkReady():
                self._draft = record_updates.mark_ready(self._present(), attempt.side, self._now())
                self._written()
            case Release(reason):
                self._withdraw(reason)
            case Reject(error):
                self._written()
                raise error
            case Wait():
                return self._waiting()
            case Done():
                return EndpointResult(self._written(), self._observed.near if self._observed else None)
        return None

    def _done_to_the_wire(self, step: Observe | Create | Build) -> EndpointResult | None:
        """Do a step at the wire; how far the end has come, if it waits for the peer's pod to be put right."""
        match step:
            case Observe(wire):
                observed = _looked_at(wire)
            case Create(wire):
                observed = _made(wire)
                if observed is not None and not differences(wire, observed):
                    self._built = wire
            case Build(wire):
                built = self._built if _only_gains_carrier(wire, self._observed) else wire
                try:
                    observed = self._build(wire)
                    self._built = built
                except (VniInUseError, VniForeignError) as error:
                    self._resolve_vni_conflict(error)
                    return None
        self._observed = observed
        return None if observed else self._waiting()

    def _peer_location(self) -> Location | None:
        """Where the peer's end is, if it is on this node and this node's journal holds it for this link.

        The link's lock is held, without which nobody gives up an end: what the journal says stays true.
        """
        peer = self._draft.sandbox(self._attempt.side.other) if self._draft is not None else None
        if peer is None or self._draft is None or self._draft.kind is not Kind.VETH:
            return None
        location = self._reconciler.journal.location(self._draft.name, peer.container_id)
        if location is None:
            log.warning("peer not in this node's journal link=%s sandbox=%s", self._draft.name, peer.container_id)
        return location

    def _is_of_a_pod_that_is_gone(self) -> bool:
        """Whether this would take the place of another pod's sandbox for a pod that the API no longer has.

        An attempt that stood still for long must not undo what has come after it. Within one pod the latest wins.
        """
        attempt, pod = self._attempt, self._attempt.sandbox.pod
        holder = self._draft.sandbox(attempt.side) if self._draft else None
        if holder is None or holder.pod.uid == pod.uid:
            return False
        there = self._reconciler.records.pod(pod.namespace, pod.name)
        return there is None or not there.ref.is_same_pod(pod)

    def _build(self, wire: Wire) -> Observed | None:
        if self._builds == BUILDS:
            raise DatapathError(f"cannot make {wire.near.ifname} of {self._attempt.name}: it does not stay made")
        self._built = wire
        observed = _built(wire, evict=self._is_held(wire))
        self._builds += 1
        return observed

    def _is_held(self, wire: Wire) -> bool:
        """Whether the API has said that the record holds the Lease of a tunnel's VNI."""
        return isinstance(wire, VxlanWire) and wire.vni == self._held_vni

    def _resolve_vni_conflict(self, error: VniInUseError | VniForeignError) -> None:
        """Prepare the next try for a VNI that the kernel refused.

        A tunnel is taken for a left-over only once the API has said that the number is this record's.
        """
        if not self._certain:
            self._make_certain()
            return
        record = self._present()
        if isinstance(error, VniForeignError):
            if self._refused == record_updates.REFUSED_KEPT:  # the record notes no more: they would come round again
                raise error
            self._refused += 1
            self._renumber(f"node {self._site.node} cannot use it: {error.__cause__ or error}", refused=True)
        elif record.vni == self._held_vni:
            raise error
        elif self._reconciler.records.hold_vni(record):
            self._held_vni = record.vni
        else:
            self._renumber(ANOTHER_LINKS, refused=False)

    def _renumber(self, reason: str, *, refused: bool) -> None:
        stored = self._stored
        if stored is None:
            raise AssertionError(f"{self._attempt.name} has a VNI and no record")
        self._draft = self._stored = self._reconciler.renumber(stored, self._present(), reason, refused=refused)
        self._observed, self._claimed = None, None

    def _needs_certainty(self, step: Step) -> bool:
        """Whether a step takes away something that stands, or ends with what was built and no write that may be refused
        because the record is another by now."""
        if isinstance(step, Build):
            exists = self._observed is not None and self._observed != Observed(None)
            return exists and not _only_gains_carrier(step.wire, self._observed)
        if isinstance(step, Wait):
            return self._site.has_agent and self._is_plugged()
        return isinstance(step, Release | Reject) or (isinstance(step, Done) and self._built is not None)

    def _make_certain(self) -> None:
        self._stored, self._certain = self._reconciler.records.link(self._attempt.name), True
        self._draft, self._observed, self._joined = self._stored, None, self._joined_before

    def _waiting(self) -> EndpointResult:
        record = self._written()
        if self._site.has_agent and record.kind is None and not self._bare:
            self._unplug()
        return EndpointResult(record)

    def _is_plugged(self) -> bool:
        """Whether an end is there as if its peer were."""
        with suppress(ForeignInterfaceError, NamespaceGoneError):
            device = datapath.observe_port(self._attempt.location, self._ifname)
            self._bare = device is None or not (device.kind == "veth" or device.carrier)
            return not self._bare
        return False

    def _unplug(self) -> None:
        """Leave an end without a peer as a cable is without one: a tunnel's without carrier, a vEth's not there."""
        with suppress(ForeignInterfaceError):
            device = datapath.observe_port(self._attempt.location, self._ifname)
            if device is not None and device.kind == "veth":
                self._take_down()
            elif device is not None:
                datapath.unplug(self._attempt.location, self._ifname)

    @property
    def _ifname(self) -> str:
        return self._attempt.wanted.end(self._attempt.side).ifname

    def _take_down(self) -> None:
        attempt = self._attempt
        take_down(self._reconciler.journal, attempt.container_id, attempt.location, self._ifname, attempt.name)

    def _written(self) -> Link:
        """The draft, stored."""
        before = self._stored
        stored = self._stored = self._draft = self._reconciler.write(before, self._present())
        self._certain |= stored is not before  # the API took it as what comes after what we had
        if self._claimed is not None and self._claimed.vni != stored.vni:
            self._free_claim()
        self._claimed = None
        return stored

    def _withdraw(self, reason: str) -> NoReturn:
        attempt = self._attempt
        self._take_down()
        self._reconciler.leave(attempt.name, attempt.container_id, reason)
        raise SupersededError(f"cannot link pod {attempt.sandbox.pod}: {reason}")

    def _free_claim(self) -> None:
        """Free a VNI that was claimed and not written, unless its record may yet take it; its device goes first."""
        if self._claimed is None or self._taker() is not None:
            return
        if self._built is not None:
            self._take_down()
        if self._claimed.vni is not None:
            self._reconciler.records.release_vni(self._claimed.vni, self._claimed.uid)

    def _account_for_claim(self) -> None:
        """Have the record own the VNI that was claimed for it, so that both go together; free what it cannot own."""
        if self._claimed is None or self._claimed.vni is None:
            return
        if (taker := self._taker()) is None:
            self._free_claim()
        elif taker.vni is None:
            self._reconciler.records.update(taker, record_updates.with_vni(taker, self._claimed.vni))

    def _taker(self) -> Link | None:
        return self._reconciler.taker(self._claimed) if self._claimed is not None else None

    def _present(self) -> Link:
        if self._draft is None:
            raise AssertionError(f"the plan had {self._attempt.name} written without a record")
        return self._draft

    def _now(self) -> datetime:
        return self._reconciler.now()


def take_down(journal: Journal, container_id: str, location: Location, ifname: str, link: str = "") -> None:
    """Remove a sandbox's end, unless the interface is that of another sandbox or, with `link`, of another link.

    One that is gone, with its namespace or alone, or that is not this end's, is nothing to remove.
    """
    with taking_down(journal, container_id, location, ifname, link):
        pass


@contextmanager
def taking_down(journal: Journal, container_id: str, location: Location, ifname: str, link: str = "") -> Iterator[None]:
    """As `take_down`, and meanwhile what is in the block."""
    if not location.netns or journal.is_anothers(location, ifname, container_id, link):
        yield
        return
    with suppress(ForeignInterfaceError), datapath.removing(location, ifname):
        yield


def _looked_at(wire: Wire) -> Observed | None:
    """What stands; None where nothing can be wired before the peer's pod is put right."""
    return _unless_for_the_peer(wire, lambda: datapath.observe(wire))


def _made(wire: Wire) -> Observed | None:
    """What stands once the wire was made, if nothing was in its way; None as for `_built`."""
    return _unless_for_the_peer(wire, lambda: datapath.make(wire))


def _built(wire: Wire, *, evict: bool) -> Observed | None:
    """What stands once the wire was made; None where it cannot be made before the peer's pod is put right."""
    return _unless_for_the_peer(wire, lambda: datapath.build(wire, evict=evict))


def _only_gains_carrier(wire: Wire, observed: Observed | None) -> bool:
    """Whether all that a standing end lacks is its carrier."""
    if not isinstance(wire, VxlanWire) or observed is None or not wire.carrier:
        return False
    return not differences(replace(wire, carrier=False), observed)


def _unless_for_the_peer(wire: Wire, act: Callable[[], Observed]) -> Observed | None:
    """What `act` gives; None where it fails for something in the peer's namespace, which is the peer's to report."""
    try:
        return act()
    except NamespaceError as error:
        if error.path == wire.near.netns:
            raise
        log.warning("the peer's end of %s cannot be made: %s", wire.link, error)
        return None


def retry_on_conflict(decide: Callable[[], Decided]) -> Decided:
    """Decide again, on what is stored by then, for as long as others' writes come between; bounded and jittered."""
    return call_with_retries(decide, ConflictError, _conflict_retries)


def _conflict_retries(elapsed: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConflictError),
        wait=tenacity.wait_random_exponential(multiplier=0.01, max=0.5),
        stop=tenacity.stop_after_delay(CONFLICT_SECONDS - elapsed),
        reraise=True,
    )
