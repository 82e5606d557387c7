"""One pass over one end of a link: run the step that `core.plan` decides, and ask it for the next one."""

from __future__ import annotations

import logging
from contextlib import suppress

from ratchet import datapath
from ratchet.core import record_updates
from ratchet.core.differences import differences, only_gains_carrier, removes_nothing
from ratchet.core.interface import CableWire, Observed, Wire
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
    Wait,
    plan,
)
from ratchet.core.underlay import Underlay
from ratchet.errors import (
    ConflictError,
    DatapathError,
    NamespaceError,
    RatchetError,
    SupersededError,
    VniForeignError,
    VniInUseError,
)
from ratchet.node.end_interface import EndInterface
from ratchet.node.endpoint_progress import (
    EndpointResult,
    Progress,
    SandboxState,
    changed_by_others,
    is_held,
    may_lose_connection,
    peer_location,
    tunnel_of,
)
from ratchet.node.journal import Journal
from ratchet.node.late_slot import placed
from ratchet.node.record_writer import LEASE_OF_ANOTHER_LINK, RecordWriter, retry_on_conflict
from ratchet.node.verified import VerifiedEnds
from ratchet.node.vni_claim import VniClaim

log = logging.getLogger(__name__)

BUILDS = 3


class EndpointReconcile:
    """One pass over one end, under its link's lock.

    Nothing is removed on the evidence of the cache: the record is read from the API first.
    """

    def __init__(
        self,
        writer: RecordWriter,
        journal: Journal,
        sandbox_state: SandboxState,
        attempt: Attempt,
        underlay: Underlay,
        verified: VerifiedEnds,
        *,
        joined: bool,
    ) -> None:
        self._writer = writer
        self._store = writer.store
        self._journal = journal
        self._sandbox_state = sandbox_state
        self._attempt = attempt
        self._underlay = underlay
        self._verified = verified
        self._joined = joined
        self._is_connected: bool | None = None if joined else False  # no interface before the first join
        self._interface = EndInterface(journal, attempt, underlay)

    def run(self) -> EndpointResult:
        """Run the steps of the plan until the end is up or waits. After a ConflictError, it can run again."""
        claim = VniClaim(self._store)
        stored, certain = self._store.links.lookup_cached(self._attempt.name)
        progress = Progress(self._attempt, stored, stored, certain, self._joined, is_connected=self._is_connected)
        try:
            while True:
                progress, step = self._next(progress)
                outcome = self._run(progress, step, claim)
                if isinstance(outcome, EndpointResult):
                    return outcome
                progress = outcome
        except ConflictError:
            self._is_connected = None
            claim.free(self._built_by(progress))
            raise
        except Exception:
            with suppress(RatchetError):  # the Lease is then left to `ratchet gc`
                retry_on_conflict(lambda: claim.account_for(self._built_by(progress)))
            raise

    def _next(self, progress: Progress) -> tuple[Progress, Step]:
        """The next step, once the progress is certain enough to run it."""
        while True:
            attempt = progress.attempt.as_recorded(progress.draft)
            progress = progress._replace(attempt=placed(attempt, progress.draft, self._journal))
            step = self._plan(progress)
            if isinstance(step, Create) and isinstance(step.wire, CableWire) and self._joined:
                step = Observe(step.wire)  # its first pass has made the cable: nothing was built, so nothing is read
            if isinstance(step, Wait) and may_lose_connection(progress, self._underlay) and not progress.certain:
                progress = self._observe_connection(progress)
            if not progress.certain and self._needs_certainty(progress, step):
                progress = self._read_from_api(progress)
            elif not progress.joined and not isinstance(step, Release):
                # Also if the record already holds this sandbox: its intent may be that of an earlier declaration.
                return progress, Join()
            elif isinstance(step, Build) and not only_gains_carrier(step.wire, progress.observed):
                return progress._replace(has_built=True), step  # also a build that fails may leave an interface
            else:
                return progress, step

    def _plan(self, progress: Progress) -> Step:
        self._sandbox_state.refuse_superseded()
        return plan(
            progress.attempt,
            progress.draft,
            self._underlay,
            joined=progress.joined,
            deleted=self._sandbox_state.is_deleted(),
            observed=progress.observed,
            peer=peer_location(progress, self._journal),
        )

    def _needs_certainty(self, progress: Progress, step: Step) -> bool:
        """Whether the record must be read from the API before a step.

        It must if the step removes an interface or carrier that is up. It must also if the step ends a pass that built
        something and wrote nothing: no refused write would then reveal that the record has changed.
        """
        match step:
            case Build(wire):
                seen = progress.observed
                return seen is not None and seen != Observed(None) and not removes_nothing(wire, seen)
            case Wait():
                is_unwritten = progress.draft == progress.stored
                return progress.is_connected is True or (progress.has_built and is_unwritten)
            case Done():
                return progress.has_built
        return isinstance(step, Release | Reject)

    def _read_from_api(self, progress: Progress) -> Progress:
        """Start again from the record as the API has it."""
        stored = self._store.links.get(progress.attempt.name)
        return progress._replace(stored=stored, draft=stored, certain=True, observed=None, joined=self._joined)

    def _run(self, progress: Progress, step: Step, claim: VniClaim) -> Progress | EndpointResult:
        """Run a step. Returns the progress after it, or the state of the end after the last step."""
        match step:
            case Join():
                return self._join(progress)
            case AllocateVni():
                return progress._replace(draft=claim.allocate(progress.record))
            case Observe() | Create() | Build():
                return self._run_on_wire(progress, step, claim)
            case MarkReady():
                end = progress.attempt.side, self._writer.now(), progress.attempt.override
                draft = record_updates.mark_ready(progress.record, *end)
                return self._write(progress._replace(draft=draft), claim)
            case Release(reason):
                raise self._withdraw(progress, reason)
            case Reject(error):
                self._write(progress, claim)
                raise error
            case Wait():
                return self._wait(progress, claim)
            case Done():
                return self._write(progress, claim).as_result()

    def _join(self, progress: Progress) -> Progress:
        if self._is_of_a_pod_that_is_gone(progress):
            raise self._withdraw(progress, "its pod is gone, and another one of its name has its place")
        attempt = progress.attempt
        draft = record_updates.join(progress.draft, attempt.wanted, attempt.side, attempt.sandbox, self._writer.now())
        return progress._replace(draft=draft, joined=True)

    def _is_of_a_pod_that_is_gone(self, progress: Progress) -> bool:
        """Whether this attempt would replace another pod's sandbox, and its own pod is gone from the API.

        An attempt that was suspended for long must not undo what came after it. Within one pod the latest sandbox wins.
        """
        pod = progress.attempt.sandbox.pod
        holder = progress.draft.sandbox(progress.attempt.side) if progress.draft else None
        if holder is None or holder.pod.uid == pod.uid:
            return False
        current = self._store.pods.get(pod.namespace, pod.name)
        return current is None or not current.ref.is_same_pod(pod)

    def _run_on_wire(
        self, progress: Progress, step: Observe | Create | Build, claim: VniClaim
    ) -> Progress | EndpointResult:
        """Run a datapath step. If it fails in the peer's namespace, this end waits: the peer reports it."""
        progress = progress._replace(tunnel=tunnel_of(step.wire))
        if not isinstance(step, Observe):
            self._verified.changing(step.wire.link, progress.attempt.side, progress.tunnel)
        try:
            match step:
                case Observe(wire):
                    return progress._replace(observed=datapath.observe(wire))
                case Create(wire):
                    observed = datapath.make(wire)
                    has_built = progress.has_built or not differences(wire, observed)
                    return progress._replace(observed=observed, has_built=has_built)
                case Build(wire):
                    return self._build(progress, wire, claim)
        except NamespaceError as error:
            if error.path == step.wire.near.netns:
                raise
            log.warning("peer's interface not built link=%s cause=%s", step.wire.link, error)
        return self._wait(progress, claim)

    def _build(self, progress: Progress, wire: Wire, claim: VniClaim) -> Progress:
        if progress.builds == BUILDS:
            raise DatapathError(
                f"cannot build {wire.near.ifname} of {progress.attempt.name}: the interface keeps disappearing"
            )
        changed = changed_by_others(progress, wire, self._verified)
        try:
            observed = datapath.build(wire, progress.observed, evict=is_held(progress, wire))
        except (VniInUseError, VniForeignError) as error:
            return self._resolve_vni_conflict(progress, error, claim)
        return progress._replace(observed=observed, builds=progress.builds + 1, reset=changed or progress.reset)

    def _resolve_vni_conflict(
        self, progress: Progress, error: VniInUseError | VniForeignError, claim: VniClaim
    ) -> Progress:
        """Prepare the next try after the kernel refused a VNI.

        The tunnel that has the VNI counts as stale only once the API has confirmed that the VNI is this record's.
        """
        if not progress.certain:
            return self._read_from_api(progress)
        record = progress.record
        if isinstance(error, VniForeignError):
            # The record keeps no more refused VNIs, so the oldest would be claimed again.
            if progress.refusals == record_updates.REFUSED_KEPT:
                raise error
            reason = f"node {self._underlay.node} cannot use it: {error.__cause__ or error}"
            return self._renumber(progress._replace(refusals=progress.refusals + 1), reason, claim, refused=True)
        if record.vni == progress.held_vni:
            raise error
        if self._store.vnis.hold(record):
            return progress._replace(held_vni=record.vni)
        return self._renumber(progress, LEASE_OF_ANOTHER_LINK, claim, refused=False)

    def _renumber(self, progress: Progress, reason: str, claim: VniClaim, *, refused: bool) -> Progress:
        if progress.stored is None:
            raise AssertionError(f"{progress.attempt.name} has a VNI and no record")
        stored = self._writer.renumber(progress.stored, progress.record, reason, refused=refused)
        claim.end()
        return progress._replace(stored=stored, draft=stored, observed=None)

    def _write(self, progress: Progress, claim: VniClaim) -> Progress:
        """Store the draft."""
        stored = self._writer.write(progress.stored, progress.record)
        claim.written(stored, self._built_by(progress))
        # A conditional write that succeeds proves that the record was current.
        certain = progress.certain or stored is not progress.stored
        return progress._replace(stored=stored, draft=stored, certain=certain)

    def _wait(self, progress: Progress, claim: VniClaim) -> EndpointResult:
        record = self._write(progress, claim).record
        if may_lose_connection(progress, self._underlay) and record.kind is None and progress.is_connected is not False:
            self._interface.disconnect()
        return EndpointResult(record)

    def _withdraw(self, progress: Progress, reason: str) -> SupersededError:
        """Remove the interface, leave the record, and return the error to raise."""
        attempt = progress.attempt
        self._interface.take_down()
        self._writer.leave(attempt.name, attempt.container_id, reason)
        return SupersededError(f"cannot link pod {attempt.sandbox.pod}: {reason}")

    def _observe_connection(self, progress: Progress) -> Progress:
        """Observe whether the end's interface looks as if the peer were ready."""
        connected = self._interface.is_connected()
        return progress if connected is None else progress._replace(is_connected=connected)

    def _built_by(self, progress: Progress) -> EndInterface | None:
        """The end's interface if the pass may have built it."""
        return self._interface if progress.has_built else None
