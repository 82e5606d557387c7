"""The limits of Events: suppressed repeats, and the maximum rates per pod and per node."""

from __future__ import annotations

import pytest

from ratchet.agent.event_limits import NODE_BURST, POD_BURST, REPEAT_SECONDS, Limiter


def allows(limiter: Limiter, uid: str, reason: str, text: str, now: float) -> bool:
    """Whether an Event that has only this text is sent."""
    return not limiter.is_repeat(uid, reason, text, now) and limiter.allows(uid, reason, [text], now)


def test_a_repeat_is_suppressed_for_five_minutes() -> None:
    limiter = Limiter()
    for now, allowed in [(0, True), (1, False), (299.9, False), (300, True), (301, False), (600, True)]:
        assert allows(limiter, "u", "Linked", "m", now) is allowed, now


@pytest.mark.parametrize("other", [("v", "Linked", "m"), ("u", "LinkLost", "m"), ("u", "Linked", "n")])
def test_an_event_of_another_pod_reason_or_text_is_not_a_repeat(other: tuple[str, str, str]) -> None:
    limiter = Limiter()
    assert allows(limiter, "u", "Linked", "m", 0)
    assert allows(limiter, *other, 0)
    assert not allows(limiter, "u", "Linked", "m", 0)
    assert not allows(limiter, *other, 0)


def test_a_pod_has_a_burst_and_then_one_event_per_thirty_seconds() -> None:
    limiter = Limiter()
    sent = [allows(limiter, "u", "Linked", str(number), 0) for number in range(30)]
    assert sent == [True] * POD_BURST + [False] * 10
    assert not allows(limiter, "u", "Linked", "x", 29.9)
    assert allows(limiter, "u", "Linked", "x", 30.1)
    assert not allows(limiter, "u", "Linked", "y", 59)
    assert allows(limiter, "v", "Linked", "y", 59)
    assert allows(limiter, "u", "Linked", "y", 61)


def test_a_silent_pod_regains_its_burst_and_no_more() -> None:
    limiter = Limiter()
    for start in (0.0, 10_000.0):
        sent = [allows(limiter, "u", "Linked", str(number), start) for number in range(30)]
        assert sum(sent) == POD_BURST


def test_a_node_has_fifty_events_per_second() -> None:
    limiter = Limiter()
    sent = [allows(limiter, f"u{number}", "Linked", "m", 5) for number in range(200)]
    assert sent == [True] * NODE_BURST + [False] * 150
    later = [allows(limiter, f"v{number}", "Linked", "m", 5.5) for number in range(200)]
    assert sum(later) == NODE_BURST // 2


def test_a_rejected_event_costs_no_token() -> None:
    limiter = Limiter()
    for number in range(NODE_BURST):
        allows(limiter, f"u{number}", "Linked", "m", 0)
    for _ in range(100):
        assert not allows(limiter, "w", "Linked", "m", 0)
    sent = [allows(limiter, "w", "Linked", str(number), 10) for number in range(30)]
    assert sum(sent) == POD_BURST


def test_the_memory_of_the_limiter_is_bounded() -> None:
    limiter = Limiter()
    for number in range(30_000):
        assert allows(limiter, f"u{number}", "Linked", "m", number / 50)
    assert len(limiter._sent) <= 8192
    assert len(limiter._pods) <= 8192
    assert allows(limiter, "last", "Linked", "m", 30_000.0)
    assert (len(limiter._sent), len(limiter._pods)) == (1, 1)


def test_only_the_texts_of_a_sent_event_are_repeats() -> None:
    limiter = Limiter()
    assert limiter.allows("u", "Linked", ["a", "b"], 0)
    found = {text: limiter.is_repeat("u", "Linked", text, REPEAT_SECONDS - 1) for text in ("a", "b", "a; b", "c")}
    assert found == {"a": True, "b": True, "a; b": False, "c": False}
    assert limiter.allows("u", "Linked", ["a"], 200)
    assert limiter.is_repeat("u", "Linked", "a", 400)
    assert not limiter.is_repeat("u", "Linked", "b", 400)


def test_an_event_costs_one_token_however_many_texts_it_has() -> None:
    limiter = Limiter()
    sent = [limiter.allows("u", "Linked", [f"{number} {text}" for text in "abc"], 0) for number in range(30)]
    assert sum(sent) == POD_BURST


def test_forgotten_texts_are_not_repeats() -> None:
    limiter = Limiter()
    for uid, reason in (("u", "Linked"), ("u", "LinkLost"), ("v", "Linked")):
        assert limiter.allows(uid, reason, ["a", "b"], 0)
    limiter.forget("u", "Linked")
    repeats = {
        (uid, reason) for uid in "uv" for reason in ("Linked", "LinkLost") if limiter.is_repeat(uid, reason, "a", 1)
    }
    assert repeats == {("u", "LinkLost"), ("v", "Linked")}
