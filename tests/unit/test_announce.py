"""The announcer: which Events and conditions it writes, and that it neither blocks nor fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from ratchet.agent.announce import Announcer
from ratchet.agent.conditions import PODS_KEPT
from ratchet.agent.event_limits import NODE_BURST, POD_BURST
from ratchet.agent.event_queue import EVENT_TRIES, EVENTS_KEPT
from ratchet.agent.events import CHANGES_KEPT, COLLECT_SECONDS, Reason
from ratchet.agent.metrics import Metrics
from ratchet.core.pod import Pod, PodRef
from ratchet.errors import ApiUnavailableError, ConflictError, RatchetError
from ratchet.store.announcements import EventType, record_event, set_condition
from ratchet.store.api_errors import (
    AdmissionDeniedError,
    AlreadyExistsError,
    ForbiddenError,
    NamespaceTerminatingError,
    NotFoundError,
)
from ratchet.store.apiserver import STRATEGIC_MERGE_PATCH, ApiServer
from ratchet.store.codec.pods import decode_pod

Json = dict[str, Any]

NOON = datetime(2026, 1, 2, 12, 0, 0, 999999, tzinfo=UTC)
AWAY = ApiUnavailableError("cannot reach the Kubernetes API at https://a:6443: timed out")
FORBIDDEN = ForbiddenError('cannot PATCH x: pods "a" is forbidden: User "agent" cannot patch resource "pods/status"')
DENIED = AdmissionDeniedError('cannot PATCH x: admission webhook "w" denied the request: no', details="exempt it")
TERMINATING = NamespaceTerminatingError("cannot POST x: … because it is being terminated")
GONE = NotFoundError('cannot PATCH x: pods "a" not found')
REPLACED = ConflictError("cannot PATCH x: Precondition failed: UID in precondition: u, UID in object meta: v")
IMMUTABLE = RatchetError('cannot PATCH x: Pod "a" is invalid: metadata.uid: Invalid value: "u": field is immutable')
REFUSED = RatchetError("cannot PATCH x: status.conditions: nonsense")


def ref(name: str = "a") -> PodRef:
    return PodRef("default", name, f"uid-{name}")


def pod(name: str = "a", *gates: str) -> Pod:
    return Pod(ref(name), gates=gates or ("ratchet/linked",))


class Api:
    """A fake API: what was written, and the errors to answer with. `held` delays requests until it is set."""

    def __init__(self) -> None:
        self.written: list[Json] = []
        self.script: list[RatchetError | Exception | None] = []
        self.held: threading.Event | None = None
        self.reached = threading.Event()
        self.tries = 0

    def create(self, path: str, body: Json) -> Json:
        assert path == f"/api/v1/namespaces/{body['metadata']['namespace']}/events"
        return self._take(body)

    def patch(self, path: str, body: Json, content_type: str) -> Json:
        assert path.endswith("/status")
        assert content_type == STRATEGIC_MERGE_PATCH
        return self._take(body)

    def _take(self, body: Json) -> Json:
        self.reached.set()
        if self.held is not None:
            assert self.held.wait(10)
        self.tries += 1
        answer = self.script.pop(0) if self.script else None
        if answer is not None:
            raise answer
        self.written.append(body)
        return body

    @property
    def events(self) -> list[str]:
        return [f"{one['reason']} {one['message']}" for one in self.written if "reason" in one]

    @property
    def conditions(self) -> list[tuple[str, str, str]]:
        """UID, status and message of each condition that was written."""
        patches = [(one["metadata"]["uid"], one["status"]["conditions"][0]) for one in self.written if "status" in one]
        return [(uid, condition["status"], condition["message"]) for uid, condition in patches]


def as_server(api: Api) -> ApiServer:
    return cast(ApiServer, api)


def wait_until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def dropped(metrics: Metrics) -> int:
    line = next(
        line for line in metrics.text().decode().splitlines() if line.startswith("ratchet_events_dropped_total")
    )
    return int(float(line.split()[1]))


class Bench:
    """Announcers with a fake API and with clocks that the test sets."""

    def __init__(self, stack: ExitStack) -> None:
        self.api = Api()
        self.metrics = Metrics()
        self.time = NOON
        self.seconds = 0.0
        self._stack = stack

    def announcer(self, *, collect: float = COLLECT_SECONDS, **options: Any) -> Announcer:
        made = Announcer(
            as_server(self.api),
            "node-a",
            self.metrics,
            **{"events": True, "readiness": True} | options,
            now=lambda: self.time,
            pauses=(0.01, 0.05),
            collect=collect,
        )
        self._stack.callback(made.close, 0)
        return made

    def collecting_announcer(self) -> Announcer:
        """An announcer that collects changes for one second of the clock `seconds`."""
        return self.announcer(collect=1.0, clock=lambda: self.seconds)

    def finish_collection(self, announcer: Announcer) -> None:
        """Let the collection time of an announcer pass, and wait until its thread has noticed."""
        self.seconds += 1.0
        with announcer._changed:
            announcer._changed.notify()
        wait_until(lambda: announcer._events.batch_due is None)

    def hold(self) -> threading.Event:
        """Hold requests to the API until the returned event is set."""
        self.api.held = held = threading.Event()
        self.api.reached.clear()
        self._stack.callback(held.set)
        return held


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


class TestEvents:
    @pytest.mark.parametrize(
        ("reason", "kind"),
        [
            (Reason.LINKED, "Normal"),
            (Reason.WAITING_FOR_PEER, "Normal"),
            (Reason.LINK_LOST, "Warning"),
            (Reason.INVALID_INTENT, "Warning"),
            (Reason.NO_COMMON_ADDRESS_FAMILY, "Warning"),
        ],
    )
    def test_an_event_is_sent(self, reason: Reason, kind: str, bench: Bench) -> None:
        announcer = bench.announcer()
        announcer.event(ref(), reason, "the link l")
        wait_until(lambda: bench.api.written)
        (event,) = bench.api.written
        assert (event["reason"], event["type"], event["message"]) == (reason.value, kind, "the link l")
        assert event["source"] == {"component": "ratchet", "host": "node-a"}
        assert event["involvedObject"]["uid"] == "uid-a"
        assert event["firstTimestamp"] == "2026-01-02T12:00:00Z"
        assert dropped(bench.metrics) == 0

    def test_a_repeated_event_is_dropped_and_counted(self, bench: Bench) -> None:
        announcer = bench.announcer()
        for message in ("m", "m", "n", "m"):
            announcer.event(ref(), Reason.LINKED, message)
        announcer.close(5)
        assert bench.api.events == ["Linked m", "Linked n"]
        assert dropped(bench.metrics) == 2

    def test_no_event_is_sent_if_events_are_disabled(self, bench: Bench) -> None:
        announcer = bench.announcer(events=False)
        announcer.event(ref(), Reason.LINKED, "m")
        announcer.close(5)
        assert bench.api.written == []
        assert dropped(bench.metrics) == 0

    def test_event_does_not_block_and_the_queue_is_bounded(self, bench: Bench) -> None:
        ticks = iter(range(10**6))
        announcer = Announcer(
            as_server(bench.api),
            "node-a",
            bench.metrics,
            events=True,
            readiness=True,
            clock=lambda: float(next(ticks)),
        )
        held = bench.hold()
        for number in range(EVENTS_KEPT + 10):
            announcer.event(ref(f"p{number}"), Reason.LINKED, "m")
        assert dropped(bench.metrics) in (9, 10)  # one may be in flight
        held.set()
        announcer.close(10**6)
        assert len(bench.api.written) + dropped(bench.metrics) == EVENTS_KEPT + 10

    def test_an_event_is_sent_with_its_original_time_once_the_api_is_back(self, bench: Bench) -> None:
        bench.api.script = [AWAY, AWAY]
        announcer = bench.announcer()
        announcer.event(ref(), Reason.LINKED, "m")
        bench.time += timedelta(hours=1)
        wait_until(lambda: bench.api.written)
        assert bench.api.written[0]["lastTimestamp"] == "2026-01-02T12:00:00Z"

    def test_an_event_is_dropped_after_its_last_try_and_later_events_are_sent(self, bench: Bench) -> None:
        bench.api.script = [AWAY] * EVENT_TRIES
        announcer = bench.announcer()
        announcer.event(ref(), Reason.LINKED, "first")
        wait_until(lambda: dropped(bench.metrics) == 1)
        announcer.event(ref(), Reason.LINKED, "second")
        wait_until(lambda: bench.api.written)
        assert bench.api.events == ["Linked second"]

    def test_an_event_that_failed_is_retried_after_the_others(self, bench: Bench) -> None:
        held = bench.hold()
        bench.api.script = [AWAY]
        announcer = bench.announcer()
        announcer.event(ref(), Reason.LINKED, "first")
        assert bench.api.reached.wait(10)
        announcer.event(ref(), Reason.LINKED, "second")
        held.set()
        wait_until(lambda: len(bench.api.written) == 2)
        assert bench.api.events == ["Linked second", "Linked first"]

    def test_a_missing_permission_is_logged_once_until_it_is_granted(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [FORBIDDEN, FORBIDDEN]
        announcer = bench.announcer()
        for message in "abc":
            announcer.event(ref(), Reason.LINKED, message)
        wait_until(lambda: bench.api.written)
        assert [one.getMessage() for one in caplog.records] == [
            f'event forbidden: grant the verb create for events cause="{FORBIDDEN}"'
        ]
        bench.api.script = [FORBIDDEN]
        announcer.event(ref(), Reason.LINKED, "d")
        announcer.event(ref(), Reason.LINKED, "e")
        wait_until(lambda: len(bench.api.written) == 2)
        assert len(caplog.records) == 2
        assert dropped(bench.metrics) == 3

    @pytest.mark.parametrize("error", [GONE, TERMINATING])
    def test_an_event_of_a_deleted_namespace_is_dropped_without_a_log_line(
        self, error: RatchetError, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [error]
        announcer = bench.announcer()
        announcer.event(ref(), Reason.LINKED, "m")
        announcer.close(5)
        assert caplog.records == []
        assert dropped(bench.metrics) == 1

    def test_an_event_that_already_exists_counts_as_sent(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        """Its name is random, so it was created by an earlier try whose response was lost."""
        bench.api.script = [AlreadyExistsError("cannot POST x: exists")]
        announcer = bench.announcer()
        announcer.event(ref(), Reason.LINKED, "m")
        announcer.event(ref(), Reason.LINKED, "n")
        announcer.close(5)
        assert bench.api.tries == 2
        assert bench.api.events == ["Linked n"]
        assert dropped(bench.metrics) == 0
        assert caplog.records == []

    @pytest.mark.parametrize("error", [REFUSED, ZeroDivisionError("a fault")])
    def test_the_thread_survives_every_error(
        self, error: Exception, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [error]
        announcer = bench.announcer()
        announcer.event(ref(), Reason.LINKED, "m")
        announcer.event(ref(), Reason.LINKED, "n")
        wait_until(lambda: bench.api.events == ["Linked n"])
        assert len(caplog.records) == 1
        assert dropped(bench.metrics) == 1


class TestCollectedEvents:
    """Changes of interfaces, which are collected so that one Event reports several."""

    def test_the_thread_sends_collected_changes_on_its_own(self, bench: Bench) -> None:
        announcer = bench.announcer(collect=0.01)
        for number in range(2):
            text = f"in{number} is linked to in2 of q (veth)"
            announcer.event(ref(), Reason.LINKED, text, f"in{number}")
            wait_until(lambda sent=number + 1: len(bench.api.written) == sent)  # type: ignore[misc]
            assert bench.api.events[number] == f"Linked {text}"

    def test_collected_changes_are_sent_when_the_collection_time_is_over(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.LINKED, "in1", "in1")
        bench.seconds += 0.9
        announcer.event(ref(), Reason.LINKED, "in2", "in2")
        announcer.event(ref("b"), Reason.INVALID_INTENT, "sent at once")
        wait_until(lambda: bench.api.written)
        assert bench.api.events == ["InvalidIntent sent at once"]
        bench.seconds += 0.1
        announcer.event(ref("b"), Reason.LINKED, "in3", "in3")
        wait_until(lambda: len(bench.api.written) == 2)
        assert bench.api.events[1:] == ["Linked in1; in2"]

    def test_one_event_lists_the_collected_changes(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.WAITING_FOR_PEER, "in1 waits for pod r2: it is not there", "in1")
        announcer.event(ref(), Reason.LINKED, "in1 is linked to in1 of r2 (vxlan, VNI 12)", "in1")
        announcer.event(ref(), Reason.LINKED, "in2 is linked to in2 of r3 (veth)", "in2")
        announcer.close(5)
        assert bench.api.events == [
            "Linked in1 is linked to in1 of r2 (vxlan, VNI 12); in2 is linked to in2 of r3 (veth)"
        ]
        assert dropped(bench.metrics) == 0

    def test_an_event_without_an_interface_is_sent_before_collected_changes(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.INVALID_INTENT, "of in1", "in1")
        announcer.event(ref(), Reason.INVALID_INTENT, "of the pod")
        wait_until(lambda: bench.api.written)
        announcer.event(ref("b"), Reason.INVALID_INTENT, "of the pod")
        wait_until(lambda: len(bench.api.written) == 2)
        assert bench.api.events == ["InvalidIntent of the pod"] * 2
        announcer.close(5)
        assert bench.api.events[2:] == ["InvalidIntent of in1"]

    def test_a_flap_is_reported_in_order(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.LINK_LOST, "in1 to q: gone", "in1")
        announcer.event(ref(), Reason.LINK_LOST, "in2 to q: gone", "in2")
        announcer.event(ref(), Reason.LINKED, "in1 is linked to q", "in1")
        wait_until(lambda: bench.api.written)
        assert bench.api.events == ["LinkLost in1 to q: gone; in2 to q: gone"]
        announcer.close(5)
        assert bench.api.events[1:] == ["Linked in1 is linked to q"]

    def test_repeats_are_suppressed_for_each_link(self, bench: Bench) -> None:
        """Also if the Events that list the link differ."""
        announcer = bench.collecting_announcer()
        for ifnames in (("in1", "in2"), ("in1", "in3"), ("in2",)):
            for ifname in ifnames:
                announcer.event(ref(), Reason.LINK_LOST, f"{ifname} to q: gone", ifname)
            bench.finish_collection(announcer)
        announcer.close(5)
        assert bench.api.events == ["LinkLost in1 to q: gone; in2 to q: gone", "LinkLost in3 to q: gone"]
        assert dropped(bench.metrics) == 2

    def test_the_last_event_of_a_flap_shows_that_the_link_is_linked(self, bench: Bench) -> None:
        """Linked is no repeat once LinkLost was sent. While LinkLost is a repeat, Linked is one too."""
        announcer = bench.collecting_announcer()
        for reason in [Reason.LINKED, *[Reason.LINK_LOST, Reason.LINKED] * 3]:
            announcer.event(ref(), reason, "in1 to q", "in1")
            bench.finish_collection(announcer)
        announcer.close(5)
        assert bench.api.events == ["Linked in1 to q", "LinkLost in1 to q", "Linked in1 to q"]
        assert dropped(bench.metrics) == 4

    def test_a_change_that_was_not_sent_is_not_a_repeat(self, bench: Bench) -> None:
        """Such as a wait shorter than the collection time, or a link that did not fit into the message."""
        announcer, much = bench.collecting_announcer(), "x" * 500
        announcer.event(ref(), Reason.WAITING_FOR_PEER, "in1 waits", "in1")
        for ifname in ("in1", "in2", "in3"):
            announcer.event(ref(), Reason.LINKED, f"{ifname} is linked {much}", ifname)
        bench.finish_collection(announcer)
        announcer.event(ref(), Reason.WAITING_FOR_PEER, "in1 waits", "in1")
        announcer.event(ref(), Reason.LINKED, f"in3 is linked {much}", "in3")
        announcer.close(5)
        assert bench.api.events == [
            f"Linked in1 is linked {much}; and 2 more",
            "WaitingForPeer in1 waits",
            f"Linked in3 is linked {much}",
        ]
        assert dropped(bench.metrics) == 0

    def test_the_same_text_of_two_interfaces_is_listed_once(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        for ifname in ("in1", "in2"):
            announcer.event(ref(), Reason.NO_COMMON_ADDRESS_FAMILY, "nodes a and b have no family", ifname)
        announcer.close(5)
        assert bench.api.events == ["NoCommonAddressFamily nodes a and b have no family"]

    def test_the_limit_counts_events_and_not_links(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        for number in range(POD_BURST + 10):
            announcer.event(ref(), Reason.LINKED, f"{number}", f"in{number}")
        announcer.event(ref(), Reason.WANTS_RESTART, "in1", "in1")  # sends the collected changes
        wait_until(lambda: bench.api.written)
        assert bench.api.events == ["Linked " + "; ".join(map(str, range(POD_BURST + 10)))]
        assert dropped(bench.metrics) == 0
        for number in range(POD_BURST + 10):
            announcer.event(ref(), Reason.INVALID_INTENT, f"{number}")
        announcer.event(ref(), Reason.LINK_LOST, "in2 to q: gone", "in2")
        announcer.close(5)
        assert len(bench.api.written) == POD_BURST
        assert dropped(bench.metrics) == 13  # 11 errors, the edit and the loss

    def test_the_limit_of_the_node_applies_at_the_time_of_collection(self, bench: Bench) -> None:
        """Even if the thread waited for the API in the meantime."""
        held = bench.hold()
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.INVALID_INTENT, "m")
        assert bench.api.reached.wait(10)
        bench.seconds += 1.0
        for second in range(3):
            for number in range(NODE_BURST):
                announcer.event(ref(f"p{second}-{number}"), Reason.LINKED, "m", "in1")
            bench.seconds += 1.0
        held.set()
        announcer.close(5)
        assert dropped(bench.metrics) == 0
        assert len(bench.api.written) == 3 * NODE_BURST + 1

    def test_the_number_of_collected_changes_is_bounded(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        for number in range(CHANGES_KEPT + 10):
            announcer.event(ref(), Reason.LINKED, f"in{number}", f"in{number}")
        assert dropped(bench.metrics) == 10
        announcer.close(5)
        (event,) = bench.api.events
        assert event.endswith(" more")

    def test_the_changes_of_a_rejected_event_are_counted_as_dropped(self, bench: Bench) -> None:
        bench.api.script = [REFUSED]
        announcer = bench.collecting_announcer()
        for number in range(5):
            announcer.event(ref(), Reason.LINKED, f"in{number}", f"in{number}")
        announcer.close(5)
        assert dropped(bench.metrics) == 5

    def test_the_events_of_a_deleted_pod_are_still_sent(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.LINK_LOST, "in1 to q: gone", "in1")
        announcer.forget("uid-a")
        announcer.close(5)
        assert bench.api.events == ["LinkLost in1 to q: gone"]

    def test_a_closed_announcer_drops_changes(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.close(5)
        announcer.event(ref(), Reason.LINKED, "in1", "in1")
        announcer.close(5)
        assert bench.api.written == []
        assert dropped(bench.metrics) == 1

    def test_an_event_has_the_time_of_its_newest_change(self, bench: Bench) -> None:
        announcer = bench.collecting_announcer()
        announcer.event(ref(), Reason.LINKED, "in1", "in1")
        bench.time += timedelta(minutes=1)
        announcer.event(ref(), Reason.LINKED, "in2", "in2")
        bench.time += timedelta(hours=1)
        announcer.close(5)
        assert bench.api.written[0]["lastTimestamp"] == "2026-01-02T12:01:00Z"


class TestConditions:
    def test_a_condition_is_written(self, bench: Bench) -> None:
        announcer = bench.announcer()
        announcer.condition(pod(), False, "WaitingForPeer", "waits for b")
        wait_until(lambda: bench.api.written)
        assert bench.api.written == [
            {
                "metadata": {"uid": "uid-a"},
                "status": {
                    "conditions": [
                        {
                            "type": "ratchet/linked",
                            "status": "False",
                            "reason": "WaitingForPeer",
                            "message": "waits for b",
                            "lastTransitionTime": "2026-01-02T12:00:00Z",
                            "lastProbeTime": None,
                        }
                    ]
                },
            }
        ]

    def test_a_condition_is_written_only_if_enabled_and_the_pod_has_the_gate(self, bench: Bench) -> None:
        for announcer, one in [
            (bench.announcer(), Pod(ref())),
            (bench.announcer(), pod("a", "other/gate")),
            (bench.announcer(readiness=False), pod()),
        ]:
            announcer.condition(one, True, "Linked", "m")
            announcer.close(5)
        assert bench.api.written == []

    def test_an_unchanged_condition_is_not_written_again(self, bench: Bench) -> None:
        announcer = bench.announcer()
        for linked, message in [(True, "m"), (True, "m"), (False, "m"), (False, "n"), (False, "n"), (True, "m")]:
            announcer.condition(pod(), linked, "Linked", message)
            wait_until(lambda: announcer._conditions.pending == 0)
        assert [one[1:] for one in bench.api.conditions] == [
            ("True", "m"),
            ("False", "m"),
            ("False", "n"),
            ("True", "m"),
        ]

    def test_the_transition_time_changes_only_with_the_status(self, bench: Bench) -> None:
        announcer = bench.announcer()
        for minute, (linked, message) in enumerate([(False, "a"), (False, "b"), (True, "c"), (True, "d")]):
            bench.time = NOON + timedelta(minutes=minute)
            announcer.condition(pod(), linked, "Linked", message)
            wait_until(lambda: announcer._conditions.pending == 0)
        times = [one["status"]["conditions"][0]["lastTransitionTime"] for one in bench.api.written]
        assert [one[14:16] for one in times] == ["00", "00", "02", "02"]

    def test_a_newer_condition_of_a_pod_replaces_a_pending_one(self, bench: Bench) -> None:
        held = bench.hold()
        announcer = bench.announcer()
        announcer.condition(pod("a"), False, "WaitingForPeer", "on its way")
        assert bench.api.reached.wait(10)
        announcer.condition(pod("b"), False, "WaitingForPeer", "b")
        for number in range(5):
            announcer.condition(pod("a"), True, "Linked", str(number))
        held.set()
        announcer.close(5)
        assert bench.api.conditions == [
            ("uid-a", "False", "on its way"),
            ("uid-b", "False", "b"),
            ("uid-a", "True", "4"),
        ]

    def test_a_condition_that_reverts_during_a_write_is_written(self, bench: Bench) -> None:
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: bench.api.written)
        wait_until(lambda: announcer._conditions.pending == 0)
        held = bench.hold()
        announcer.condition(pod(), False, "LinkLost", "n")
        assert bench.api.reached.wait(10)
        announcer.condition(pod(), True, "Linked", "m")
        held.set()
        announcer.close(5)
        assert [status for _, status, _ in bench.api.conditions] == ["True", "False", "True"]

    def test_a_condition_is_retried_until_the_api_is_back_and_the_delay_is_logged_once(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [AWAY] * 6
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: bench.api.written)
        assert bench.api.tries == 7
        assert [one.getMessage() for one in caplog.records] == [f'announcements delayed cause="{AWAY}"']

    def test_the_previous_condition_is_written_again_after_a_failed_write(self, bench: Bench) -> None:
        """The API may have applied the write that failed. The clock stands, so it is not retried meanwhile."""
        announcer = bench.announcer(clock=lambda: bench.seconds)
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: bench.api.written)
        wait_until(lambda: announcer._conditions.pending == 0)
        bench.api.script = [AWAY]
        announcer.condition(pod(), False, "LinkLost", "n")
        wait_until(lambda: bench.api.script == [] and not announcer._conditions._pods["uid-a"].writing)
        announcer.condition(pod(), True, "Linked", "m")
        announcer.close(5)
        assert bench.api.conditions == [("uid-a", "True", "m")] * 2

    @pytest.mark.parametrize("error", [AWAY, FORBIDDEN])
    def test_the_condition_of_a_forgotten_pod_is_not_retried(self, error: RatchetError, bench: Bench) -> None:
        bench.api.script = [error] * 1000
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: bench.api.tries > 1)
        announcer.forget("uid-a")
        bench.api.script = []
        announcer.condition(pod("b"), True, "Linked", "b")
        wait_until(lambda: bench.api.written)
        announcer.close(5)
        assert [uid for uid, _, _ in bench.api.conditions] in (["uid-b"], ["uid-a", "uid-b"])  # one may be in flight
        assert announcer._conditions.uids == {"uid-b"}

    @pytest.mark.parametrize("error", [GONE, REPLACED, IMMUTABLE])
    def test_the_condition_of_a_deleted_pod_is_dropped_without_a_log_line(
        self, error: RatchetError, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [error]
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: not announcer._conditions.uids)
        assert bench.api.tries == 1
        assert caplog.records == []

    def test_a_missing_permission_is_logged_once_and_all_conditions_are_retried(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [FORBIDDEN, FORBIDDEN]
        announcer = bench.announcer()
        announcer.condition(pod("a"), True, "Linked", "m")
        announcer.condition(pod("b"), True, "Linked", "m")
        wait_until(lambda: len(bench.api.written) == 2)
        assert [one.getMessage() for one in caplog.records] == [
            f'condition forbidden: grant the verb patch for pods/status cause="{FORBIDDEN}"'
        ]

    def test_a_denial_by_admission_is_logged_once_with_its_remedy_and_all_conditions_are_retried(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [DENIED, DENIED]
        announcer = bench.announcer()
        announcer.condition(pod("a"), True, "Linked", "m")
        announcer.condition(pod("b"), True, "Linked", "m")
        wait_until(lambda: len(bench.api.written) == 2)
        assert [one.getMessage() for one in caplog.records] == [f'condition denied: exempt it cause="{DENIED}"']

    @pytest.mark.parametrize("error", [REFUSED, ZeroDivisionError("a fault")])
    def test_a_rejected_condition_is_logged_and_not_retried(
        self, error: Exception, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.api.script = [error]
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: announcer._conditions.pending == 0)
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: bench.api.written)
        assert (bench.api.tries, len(caplog.records)) == (2, 1)

    def test_the_number_of_pods_with_a_condition_is_bounded(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        held = bench.hold()
        announcer = bench.announcer()
        for number in range(PODS_KEPT + 1):
            announcer.condition(pod(f"p{number}"), True, "Linked", "m")
        assert len(announcer._conditions) == PODS_KEPT
        assert f"too many pods condition=ratchet/linked pod=default/p{PODS_KEPT}" in caplog.text
        held.set()
        wait_until(lambda: len(bench.api.written) == PODS_KEPT)
        announcer.condition(pod("last"), True, "Linked", "m")
        wait_until(lambda: bench.api.conditions[-1][0] == "uid-last")
        assert len(announcer._conditions) == PODS_KEPT


class TestClose:
    def test_close_sends_what_is_queued_and_accepts_nothing_more(self, bench: Bench) -> None:
        held = bench.hold()
        announcer = bench.announcer()
        for message in "abc":
            announcer.event(ref(), Reason.LINKED, message)
        announcer.condition(pod(), True, "Linked", "m")
        held.set()
        announcer.close(5)
        announcer.event(ref(), Reason.LINKED, "late")
        announcer.condition(pod("late"), True, "Linked", "m")
        announcer.close(5)
        assert bench.api.events == ["Linked a", "Linked b", "Linked c"]
        assert bench.api.conditions == [("uid-a", "True", "m")]
        assert not announcer._thread.is_alive()

    def test_close_does_not_wait_for_an_unreachable_api(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        bench.api.script = [AWAY] * 1000
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        announcer.close(seconds=3600)
        assert "announcements dropped at shutdown events=0 conditions=1" in caplog.text

    def test_close_waits_for_a_response_only_until_its_timeout(self, bench: Bench) -> None:
        held = bench.hold()
        announcer = bench.announcer()
        announcer.condition(pod(), True, "Linked", "m")
        assert bench.api.reached.wait(10)
        announcer.close(0.01)
        assert announcer._thread.is_alive()
        held.set()
        wait_until(lambda: not announcer._thread.is_alive())

    def test_close_does_not_retry_a_forbidden_condition(self, bench: Bench) -> None:
        bench.api.script = [FORBIDDEN] * 1000
        announcer = Announcer(as_server(bench.api), "a", bench.metrics, events=True, readiness=True)
        announcer.condition(pod(), True, "Linked", "m")
        wait_until(lambda: bench.api.tries == 1)
        announcer.close(30)
        assert bench.api.tries == 1


class TestAnnouncements:
    def test_an_event_has_a_valid_unique_name_and_a_bounded_message(self) -> None:
        api = Api()
        for name in ("a", "p" * 253, "p" * 235 + ".-" + "q" * 16):
            record_event(as_server(api), ref(name), "Linked", "m" * 5000, EventType.NORMAL, now=NOON)
        names = [one["metadata"]["name"] for one in api.written]
        assert [len(one) for one in names] == [18, 253, 235 + 17]
        assert {len(one["message"]) for one in api.written} == {1024}
        heads, tails = zip(*(one.rsplit(".", 1) for one in names), strict=True)
        assert heads == ("a", "p" * 236, "p" * 235)
        assert len(set(tails)) == 3
        assert all(len(one) == 16 and int(one, 16) >= 0 for one in tails)

    @pytest.mark.parametrize("error", [IMMUTABLE, REPLACED])
    def test_a_condition_for_a_pod_with_another_uid_is_a_conflict(self, error: RatchetError) -> None:
        api = Api()
        api.script = [error]
        with pytest.raises(ConflictError):
            set_condition(as_server(api), ref(), True, "Linked", "m", NOON)

    def test_other_errors_of_the_api_are_raised_unchanged(self) -> None:
        api = Api()
        api.script = [REFUSED]
        with pytest.raises(RatchetError, match="nonsense"):
            set_condition(as_server(api), ref(), True, "Linked", "m", NOON)

    @pytest.mark.parametrize(
        ("spec", "gates"),
        [
            (None, ()),
            ({}, ()),
            ({"readinessGates": None}, ()),
            (
                {"readinessGates": [{"conditionType": "ratchet/linked"}, {"conditionType": "x"}]},
                ("ratchet/linked",),
            ),
        ],
    )
    def test_only_the_own_readiness_gate_of_a_pod_is_decoded(self, spec: Json | None, gates: tuple[str, ...]) -> None:
        assert decode_pod({"metadata": {"name": "a"}, "spec": spec}).gates == gates
