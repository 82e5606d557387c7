"""The collector of Events: combined changes, order, limits, and truncation of messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from ratchet.agent.events import Batch, Collector, Reason, event_message
from ratchet.core.pod import PodRef

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
A, B = PodRef("default", "a", "uid-a"), PodRef("default", "b", "uid-b")
LINKED, WAITING, LOST = Reason.LINKED, Reason.WAITING_FOR_PEER, Reason.LINK_LOST

# A change: the time of its report in seconds, its reason, its interface and its text.
Change = tuple[float, Reason, str, str]
Sent = list[tuple[Reason, list[str]]]


def collected(changes: Sequence[Change], pod: PodRef = A) -> Sent:
    """The Events that report these changes of a pod, in the order of sending."""
    collector, batches = Collector(seconds=1.0), list[Batch]()
    for now, reason, interface, text in changes:
        batches += collector.take(now)
        collector.add(pod, reason, interface, text, now, NOON)
    batches += collector.take_all()
    return [(one.reason, list(one.texts.values())) for one in batches]


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(0, LINKED, "in1", "1 to q")], [(LINKED, ["1 to q"])], id="one link"),
        pytest.param(
            [(0, LINKED, "in1", "1 to q"), (0.5, LINKED, "in2", "2 to r"), (0.9, LINKED, "in3", "3 to s")],
            [(LINKED, ["1 to q", "2 to r", "3 to s"])],
            id="several links in one Event",
        ),
        pytest.param(
            [(0, LINKED, "in1", "1 to q"), (0.9, LINKED, "in2", "2 to r"), (1.1, LINKED, "in3", "3 to s")],
            [(LINKED, ["1 to q", "2 to r"]), (LINKED, ["3 to s"])],
            id="the time counts from the first change",
        ),
        pytest.param(
            [(0, WAITING, "in1", "1 waits"), (0.5, LINKED, "in1", "1 to q")],
            [(LINKED, ["1 to q"])],
            id="linked, no longer waiting",
        ),
        pytest.param(
            [(0, WAITING, "in1", "1 waits"), (0, WAITING, "in2", "2 waits"), (0.5, LINKED, "in1", "1 to q")],
            [(WAITING, ["2 waits"]), (LINKED, ["1 to q"])],
            id="one is linked, the other still waits",
        ),
        pytest.param(
            [(0, WAITING, "in1", "1 waits"), (1.5, LINKED, "in1", "1 to q")],
            [(WAITING, ["1 waits"]), (LINKED, ["1 to q"])],
            id="waited for longer than Events are collected",
        ),
        pytest.param(
            [(0, LOST, "in1", "1 lost"), (0.5, LINKED, "in1", "1 to q")],
            [(LOST, ["1 lost"]), (LINKED, ["1 to q"])],
            id="lost and linked again",
        ),
        pytest.param(
            [(0, LINKED, "in1", "1 to q"), (0.5, LOST, "in1", "1 lost")],
            [(LINKED, ["1 to q"]), (LOST, ["1 lost"])],
            id="linked and lost",
        ),
        pytest.param(
            [(0, LINKED, "in1", "1 to q"), (0.2, LOST, "in1", "1 lost"), (0.4, LINKED, "in1", "1 to q")],
            [(LINKED, ["1 to q"]), (LOST, ["1 lost"]), (LINKED, ["1 to q"])],
            id="a flap is reported in order",
        ),
        pytest.param(
            [(0, LINKED, "in2", "2 to r"), (0.2, LOST, "in1", "1 lost"), (0.4, LINKED, "in1", "1 to q")],
            [(LOST, ["1 lost"]), (LINKED, ["2 to r", "1 to q"])],
            id="the newest Event of an interface shows its state, linked",
        ),
        pytest.param(
            [(0, LOST, "in2", "2 lost"), (0.2, LINKED, "in1", "1 to q"), (0.4, LOST, "in1", "1 lost")],
            [(LINKED, ["1 to q"]), (LOST, ["2 lost", "1 lost"])],
            id="the newest Event of an interface shows its state, lost",
        ),
        pytest.param(
            [(0, LOST, "in1", "1 lost"), (0.1, LOST, "in2", "2 lost"), (0.5, LINKED, "in1", "1 to q")],
            [(LOST, ["1 lost", "2 lost"]), (LINKED, ["1 to q"])],
            id="what is lost together is one Event",
        ),
        pytest.param(
            [(0, LINKED, "in1", "1 to q"), (0.5, WAITING, "in1", "1 waits for s"), (0.9, LINKED, "in1", "1 to s")],
            [(LINKED, ["1 to q"]), (LINKED, ["1 to s"])],
            id="an interface gets another link",
        ),
        pytest.param(
            [(0, LINKED, "in1", "1 to q, VNI 1"), (0.5, LINKED, "in1", "1 to q, VNI 2")],
            [(LINKED, ["1 to q, VNI 2"])],
            id="the newest text of an interface",
        ),
        pytest.param(
            [(0, Reason.WANTS_RESTART, "in1", "1 edited"), (0.1, Reason.WANTS_RESTART, "in2", "2 edited")],
            [(Reason.WANTS_RESTART, ["1 edited", "2 edited"])],
            id="edits",
        ),
    ],
)
def test_changes_are_combined_into_events(changes: list[Change], sent: Sent) -> None:
    assert collected(changes) == sent


def test_a_mesh_that_comes_up_within_a_second_is_one_event_per_pod() -> None:
    waiting = [(0.1, WAITING, f"in{number}", f"{number} waits") for number in range(9)]
    linked = [(0.1 + number / 12, LINKED, f"in{number}", f"{number} to q") for number in range(9)]
    assert collected([*waiting, *linked]) == [(LINKED, [f"{number} to q" for number in range(9)])]


def test_each_pod_has_its_own_events() -> None:
    collector = Collector()
    for pod in (A, B):
        assert collector.add(pod, LINKED, "in1", "1 to q", 0.0, NOON)
    assert collector.add(B, LOST, "in1", "1 lost", 0.0, NOON)
    found = [(one.pod.name, one.reason) for one in collector.take_all()]
    assert found == [("b", LINKED), ("a", LINKED), ("b", LOST)]


def test_a_batch_is_due_after_the_collection_time() -> None:
    collector = Collector(seconds=2.0)
    collector.add(A, LINKED, "in1", "1 to q", 10.0, NOON)
    collector.add(B, LINKED, "in1", "1 to q", 11.0, NOON)
    collector.add(A, LINKED, "in2", "2 to q", 11.5, NOON)
    assert collector.due == 12.0
    assert collector.take(11.9) == []
    assert [one.pod for one in collector.take(12.0)] == [A]
    assert collector.due == 13.0
    assert [one.pod for one in collector.take(13.0)] == [B]
    assert collector.due is None


def test_a_batch_is_due_at_once_if_an_interface_changes_to_another_reason() -> None:
    collector = Collector(seconds=2.0)
    collector.add(A, LINKED, "in1", "1 to q", 10.0, NOON)
    collector.add(A, LOST, "in1", "1 lost", 10.5, NOON)
    assert collector.due == 10.5
    assert [one.reason for one in collector.take(10.5)] == [LINKED]
    assert collector.due == 12.5


def test_a_batch_without_changes_is_not_sent() -> None:
    collector = Collector(seconds=2.0)
    collector.add(A, WAITING, "in1", "1 waits", 10.0, NOON)
    collector.add(A, LINKED, "in1", "1 to q", 11.0, NOON)
    assert collector.due == 13.0
    assert [one.reason for one in collector.take_all()] == [LINKED]


def test_an_event_has_the_time_of_its_newest_change() -> None:
    """Tools sort Events by time, so the Event of a restored link must be later than that of its loss."""
    collector = Collector()
    for second, (reason, interface) in enumerate([(LINKED, "in2"), (LOST, "in1"), (LINKED, "in1")]):
        collector.add(A, reason, interface, "m", 0.0, NOON + timedelta(seconds=second))
    assert [(one.reason, one.at.second) for one in collector.take_all()] == [(LOST, 1), (LINKED, 2)]


def test_a_repeated_change_is_not_collected() -> None:
    collector = Collector()
    assert collector.add(A, LINKED, "in1", "1 to q", 0.0, NOON)
    assert not collector.add(A, LINKED, "in1", "1 to q", 0.5, NOON)


def test_the_number_of_collected_changes_is_bounded() -> None:
    collector = Collector(limit=3)
    for number in range(3):
        assert collector.add(A, WAITING, f"in{number}", "waits", 0.0, NOON)
    assert not collector.add(B, WAITING, "in1", "waits", 0.0, NOON)
    assert collector.add(A, WAITING, "in1", "waits for another", 0.0, NOON)
    assert collector.add(A, LINKED, "in1", "linked", 0.0, NOON), "it takes the place of the one that waits"
    assert not collector.add(A, LOST, "in1", "lost", 0.0, NOON)
    assert [list(one.texts) for one in collector.take(1.0)] == [["in0", "in2"], ["in1"]]
    for number in range(3):
        assert collector.add(A, WAITING, f"in{number}", "waits", 1.0, NOON)
    assert not collector.add(B, WAITING, "in1", "waits", 1.0, NOON)


@pytest.mark.parametrize(
    ("texts", "limit", "message", "named"),
    [
        (["in1 is linked"], 100, "in1 is linked", 1),
        (["in1 is linked"], 6, "in1 is", 1),
        (["aaaa", "bbbb"], 10, "aaaa; bbbb", 2),
        (["aaaa", "bbbb", "cccc"], 22, "aaaa; bbbb; cccc", 3),
        (["aaaa", "bbbb", "cccccccccccc"], 22, "aaaa; bbbb; and 1 more", 2),
        (["aaaa", "bbbb", "cccccccccccc"], 21, "aaaa; and 2 more", 1),
        (["aaaaaaaa", "bbbb", "cccc"], 15, "aaa; and 2 more", 1),
        (["a"] * 12, 15, "a; and 11 more", 1),
    ],
)
def test_a_message_is_truncated_after_a_whole_entry_if_possible(
    texts: list[str], limit: int, message: str, named: int
) -> None:
    assert event_message(texts, limit) == (message, named)
    assert len(message) <= limit


@pytest.mark.parametrize("links", [1, 2, 9, 10, 11, 99, 100, 101, 256])
def test_a_message_is_no_longer_than_its_limit_and_counts_every_entry(links: int) -> None:
    texts = [f"in{number} is linked to in{number} of pod-{number} (veth)" for number in range(links)]
    message, named = event_message(texts, 1024)
    assert len(message) <= 1024
    left = links - named
    assert message == "; ".join(texts[:named]) + (f"; and {left} more" if left else "")
    assert not left or len("; ".join(texts[: named + 1])) + len(f"; and {left - 1} more") > 1024
