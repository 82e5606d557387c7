"""Reconcile an end of a link: ask `core.plan` for the next step and run it, until it is up or waits.

To read the record, build the interface and record the result is one critical section per link on this node (the
journal's lock). The lock is never held while an end waits for its peer. This module decides nothing; `core.plan` does.
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
from ratchet.store.interface import Store

Decided = TypeVar("Decided")

log = logging.getLogger(__name__)

CONFLICT_SECONDS = 30.0
BUILDS = 3
ANOTHER_LINKS = "another link holds its Lease"


def wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class EndpointResult:
    """The state of an end: its link's record as stored now, and the end's device if the end is up."""

    record: Link
    device: Device | None = None

    @property
    def is_up(self) -> bool:
        return self.device is not None


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Reconciler for the ends of one node's sandboxes.

    `records` holds the state in the API, `journal` the state on the node. `deleted` returns whether the runtime has
    deleted a sandbox, by container ID. `verified` collects the ends that are up. `now` is the wall clock: its times are
    written to the records for people to read.
    """

    records: Store
    journal: Journal
    deleted: Callable[[str], bool]
    verified: VerifiedEnds = field(default_factory=VerifiedEnds)
    now: Callable[[], datetime] = wall_clock

    def settle(self, attempt: Attempt, site: Underlay, *, joined: bool) -> EndpointResult:
        """Reconcile an end as far as possible now, without waiting for its peer.

        The end first joins its link's record, unless the attempt has `joined` before. If the peer has joined, the
        interface is built before the join is written, so that one write covers both.

        Raises SupersededError, with the interface removed, if another sandbox has the end's place or the runtime has
        deleted this one. Raises DatapathError if the kernel refuses. Raises AddressFamilyError or InvalidIntentError,
        with the record written, if the link cannot be made.
        """
        with self.journal.lock(attempt.name):
            settled = retry_on_conflict(lambda: EndpointReconcile(self, attempt, site, joined).run())
            side = attempt.as_recorded(settled.record).side
            self.verified.note(settled.record, side, site, up=settled.is_up)
            return settled

    def leave(self, link: str, container_id: str, reason: str) -> None:
        """Remove a sandbox from its link's record. The last sandbox to leave deletes the record.

        Does nothing if the record does not hold the sandbox, so the call can be repeated. The caller holds the link's
        lock and has removed the interface. Raises NewerRecordError if only newer versions may use the record; the
        sandbox is removed from the record nevertheless.
        """

        def left(record: Link) -> Link:
            side = record.side_of(container_id)
            return record if side is None else record_updates.leave(record, side, container_id, reason, self.now())

        try:
            self._change(link, left)
        except NewerRecordError:
            retry_on_conflict(lambda: self.records.links.leave_newer(link, container_id))
            raise

    def mark_lost(self, link: str, container_id: str, reason: str) -> None:
        """Record that an end is no longer up, if the record holds this sandbox."""

        def lost(record: Link) -> Link:
            side = record.side_of(container_id)
            return record if side is None else record_updates.mark_lost(record, side, reason, self.now())

        self._change(link, lost)

    def assert_vni(self, link: str) -> None:
        """Make the record of a link hold the Lease of its VNI, or renumber the link. Raises RatchetError."""
        with self.journal.lock(link):
            retry_on_conflict(lambda: self._assert_vni(link))

    def _assert_vni(self, name: str) -> None:
        record = self.records.links.get(name)
        if record is not None and record.vni is not None and not self.records.vnis.hold(record):
            self.renumber(record, record, ANOTHER_LINKS, refused=False)

    def renumber(self, before: Link, draft: Link, reason: str, *, refused: bool) -> Link:
        """Store `draft` with another VNI and return the stored record.

        `before` is the record as stored so far. The new VNI is written before the old Lease is freed. The old Lease
        belongs to the record only if a node has `refused` the VNI.
        """
        renumbered = record_updates.renumber(
            draft, self.records.vnis.claim_another(draft), reason, self.now(), refused=refused
        )
        try:
            stored = self.write(before, renumbered)
        except ConflictError:
            self.free_unused_vni(renumbered)
            raise
        log.warning("VNI renumbered link=%s from=%s to=%s reason=%r", stored.name, draft.vni, stored.vni, reason)
        if refused and draft.vni is not None:
            self.records.vnis.release(draft.vni, stored.uid)
        return stored

    def free_unused_vni(self, claimed: Link) -> None:
        """Free a VNI that was claimed for a record, unless the record has it or may still take it."""
        if claimed.vni is not None and self.taker(claimed) is None:
            self.records.vnis.release(claimed.vni, claimed.uid)

    def taker(self, claimed: Link) -> Link | None:
        """The record for which a VNI was claimed; None if it neither has the VNI nor may still take it."""
        current = self.records.links.get(claimed.name)
        if current is None or current.uid != claimed.uid:
            return None
        return current if current.vni in (None, claimed.vni) else None

    def write(self, before: Link | None, after: Link) -> Link:
        """Store `after`, which was derived from `before`, and return it as stored. Raises ConflictError."""
        if before is None:
            return self.records.links.create(after)
        if after.abandoned:
            self.records.links.delete(before)
            return after
        return before if after == before else self.records.links.update(before, after)

    def _change(self, link: str, move: Callable[[Link], Link]) -> None:
        """Apply `move` to a record.

        Only the API's answer, never the cache, proves that there is nothing to do.
        """

        def try_once() -> None:
            record, certain = self.records.links.lookup(link)
            if not certain and (record is None or move(record) == record):
                record = self.records.links.get(link)
            if record is not None:
                self.write(record, move(record))

        retry_on_conflict(try_once)


class EndpointReconcile:
    """One reconcile pass over one end, under its link's lock.

    `draft` is the record to be written; the stored record may lag behind it until the end is up. Nothing is removed
    on the evidence of the cache: the record is read from the API first.
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
        self._held_vni: int | None = None  # the VNI whose Lease the API has shown to be the record's
        self._refused = 0
        self._claimed: Link | None = None
        self._stored, self._certain = reconciler.records.links.lookup_cached(attempt.name)
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
                # Also if the record already holds this sandbox: its intent may be that of an earlier declaration.
                return Join()
            else:
                return step

    def _done(self, step: Step) -> EndpointResult | None:
        """Run a step. Returns the state of the end after the last step, else None."""
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
                self._draft = self._claimed = self._reconciler.records.vnis.allocate(self._present())
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
        """Run a datapath step. Returns the end's state if the peer's pod must be repaired first, else None."""
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
        """The location of the peer's end, if it is on this node and in its journal for this link.

        The caller holds the link's lock. An end is given up only under that lock, so the journal's answer stays true.
        """
        peer = self._draft.sandbox(self._attempt.side.other) if self._draft is not None else None
        if peer is None or self._draft is None or self._draft.kind is not Kind.VETH:
            return None
        location = self._reconciler.journal.location(self._draft.name, peer.container_id)
        if location is None:
            log.warning("peer not in this node's journal link=%s sandbox=%s", self._draft.name, peer.container_id)
        return location

    def _is_of_a_pod_that_is_gone(self) -> bool:
        """Whether this attempt would replace another pod's sandbox, and its own pod is gone from the API.

        An attempt that was suspended for long must not undo what came after it. Within one pod the latest sandbox wins.
        """
        attempt, pod = self._attempt, self._attempt.sandbox.pod
        holder = self._draft.sandbox(attempt.side) if self._draft else None
        if holder is None or holder.pod.uid == pod.uid:
            return False
        there = self._reconciler.records.pods.get(pod.namespace, pod.name)
        return there is None or not there.ref.is_same_pod(pod)

    def _build(self, wire: Wire) -> Observed | None:
        if self._builds == BUILDS:
            raise DatapathError(f"cannot make {wire.near.ifname} of {self._attempt.name}: it does not stay made")
        self._built = wire
        observed = _built(wire, evict=self._is_held(wire))
        self._builds += 1
        return observed

    def _is_held(self, wire: Wire) -> bool:
        """Whether the API has confirmed that the record holds the Lease of a tunnel's VNI."""
        return isinstance(wire, VxlanWire) and wire.vni == self._held_vni

    def _resolve_vni_conflict(self, error: VniInUseError | VniForeignError) -> None:
        """Prepare the next try after the kernel refused a VNI.

        The tunnel that has the VNI counts as stale only once the API has confirmed that the VNI is this record's.
        """
        if not self._certain:
            self._make_certain()
            return
        record = self._present()
        if isinstance(error, VniForeignError):
            # The record keeps no more refused VNIs, so the oldest would be claimed again.
            if self._refused == record_updates.REFUSED_KEPT:
                raise error
            self._refused += 1
            self._renumber(f"node {self._site.node} cannot use it: {error.__cause__ or error}", refused=True)
        elif record.vni == self._held_vni:
            raise error
        elif self._reconciler.records.vnis.hold(record):
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
        """Whether the record must be read from the API before a step.

        It must if the step removes an interface or carrier that is up. It must also if the step ends a pass that built
        something and wrote nothing: no refused write would then reveal that the record has changed.
        """
        if isinstance(step, Build):
            exists = self._observed is not None and self._observed != Observed(None)
            return exists and not _only_gains_carrier(step.wire, self._observed)
        if isinstance(step, Wait):
            return self._site.has_agent and self._is_plugged()
        return isinstance(step, Release | Reject) or (isinstance(step, Done) and self._built is not None)

    def _make_certain(self) -> None:
        self._stored, self._certain = self._reconciler.records.links.get(self._attempt.name), True
        self._draft, self._observed, self._joined = self._stored, None, self._joined_before

    def _waiting(self) -> EndpointResult:
        record = self._written()
        if self._site.has_agent and record.kind is None and not self._bare:
            self._unplug()
        return EndpointResult(record)

    def _is_plugged(self) -> bool:
        """Whether the end's interface looks as if the peer were ready: a vEth, or a tunnel with carrier."""
        with suppress(ForeignInterfaceError, NamespaceGoneError):
            device = datapath.observe_port(self._attempt.location, self._ifname)
            self._bare = device is None or not (device.kind == "veth" or device.carrier)
            return not self._bare
        return False

    def _unplug(self) -> None:
        """Disconnect an end whose peer is gone: take the carrier of a tunnel, remove the interface of a vEth."""
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
        """Store the draft and return it as stored."""
        before = self._stored
        stored = self._stored = self._draft = self._reconciler.write(before, self._present())
        self._certain |= stored is not before  # a conditional write succeeded, so what we had was current
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
        """Free a VNI that was claimed and not written, unless its record may still take it.

        Removes the VNI's device first.
        """
        if self._claimed is None or self._taker() is not None:
            return
        if self._built is not None:
            self._take_down()
        if self._claimed.vni is not None:
            self._reconciler.records.vnis.release(self._claimed.vni, self._claimed.uid)

    def _account_for_claim(self) -> None:
        """Write the claimed VNI into its record, so that both are deleted together; else free it."""
        if self._claimed is None or self._claimed.vni is None:
            return
        if (taker := self._taker()) is None:
            self._free_claim()
        elif taker.vni is None:
            self._reconciler.records.links.update(taker, record_updates.with_vni(taker, self._claimed.vni))

    def _taker(self) -> Link | None:
        return self._reconciler.taker(self._claimed) if self._claimed is not None else None

    def _present(self) -> Link:
        if self._draft is None:
            raise AssertionError(f"the plan had {self._attempt.name} written without a record")
        return self._draft

    def _now(self) -> datetime:
        return self._reconciler.now()


def take_down(journal: Journal, container_id: str, location: Location, ifname: str, link: str = "") -> None:
    """Remove the interface of a sandbox's end.

    Leaves the interface alone if it belongs to another sandbox or, with `link`, to another link, or is not Ratchet's.
    Does nothing if the interface or its namespace is gone.
    """
    with taking_down(journal, container_id, location, ifname, link):
        pass


@contextmanager
def taking_down(journal: Journal, container_id: str, location: Location, ifname: str, link: str = "") -> Iterator[None]:
    """Run the block while the interface is removed as by `take_down`."""
    if not location.netns or journal.is_anothers(location, ifname, container_id, link):
        yield
        return
    with suppress(ForeignInterfaceError), datapath.removing(location, ifname):
        yield


def _looked_at(wire: Wire) -> Observed | None:
    """Observe the link's interfaces. None if the peer's pod must be repaired first."""
    return _unless_for_the_peer(wire, lambda: datapath.observe(wire))


def _made(wire: Wire) -> Observed | None:
    """Create the link's interfaces if nothing is in the way, and observe them. None as for `_looked_at`."""
    return _unless_for_the_peer(wire, lambda: datapath.make(wire))


def _built(wire: Wire, *, evict: bool) -> Observed | None:
    """Create or replace the link's interfaces and observe them. None as for `_looked_at`."""
    return _unless_for_the_peer(wire, lambda: datapath.build(wire, evict=evict))


def _only_gains_carrier(wire: Wire, observed: Observed | None) -> bool:
    """Whether an existing end lacks its carrier and nothing else."""
    if not isinstance(wire, VxlanWire) or observed is None or not wire.carrier:
        return False
    return not differences(replace(wire, carrier=False), observed)


def _unless_for_the_peer(wire: Wire, act: Callable[[], Observed]) -> Observed | None:
    """The result of `act`; None if it fails because of the peer's namespace. The peer reports that."""
    try:
        return act()
    except NamespaceError as error:
        if error.path == wire.near.netns:
            raise
        log.warning("the peer's end of %s cannot be made: %s", wire.link, error)
        return None


def retry_on_conflict(decide: Callable[[], Decided]) -> Decided:
    """Call `decide` again after each ConflictError, for CONFLICT_SECONDS at most, with jittered backoff."""
    return call_with_retries(decide, ConflictError, _conflict_retries)


def _conflict_retries(elapsed: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConflictError),
        wait=tenacity.wait_random_exponential(multiplier=0.01, max=0.5),
        stop=tenacity.stop_after_delay(CONFLICT_SECONDS - elapsed),
        reraise=True,
    )
