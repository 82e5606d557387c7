"""Interruption of calls: the first signal ends what can be undone, and no signal ends the undoing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from ratchet.node.interrupts import LIMIT_SECONDS, InterruptedCallError, Interrupts, SignalInterrupts


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The limits that were set. The alarm itself would end the test run."""
    found: list[int] = []
    monkeypatch.setattr(signal, "alarm", found.append)
    return found


@pytest.fixture
def plugin(alarms: list[int]) -> Iterator[SignalInterrupts]:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    made = SignalInterrupts()
    try:
        made.install()
        yield made
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_interrupts_and_limits_the_rest(
    plugin: SignalInterrupts, alarms: list[int], number: signal.Signals
) -> None:
    with pytest.raises(InterruptedCallError, match=f"the plugin received {number.name}"):
        signal.raise_signal(number)
    assert alarms == [LIMIT_SECONDS]
    for _ in range(3):
        signal.raise_signal(number)
    assert alarms == [LIMIT_SECONDS], "later signals do not extend the limit"


def test_an_undoing_is_not_interrupted(plugin: SignalInterrupts) -> None:
    undone: list[str] = []

    def call() -> None:
        with plugin.deferred():
            try:
                with plugin.allowed():
                    signal.raise_signal(signal.SIGTERM)
                    pytest.fail("SIGTERM interrupts the set-up")
            except InterruptedCallError:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
                undone.append("all of it")
                raise

    with pytest.raises(InterruptedCallError):
        call()
    assert undone == ["all of it"]


def test_the_first_signal_does_not_interrupt_the_undoing_of_another_failure(plugin: SignalInterrupts) -> None:
    with plugin.deferred():
        signal.raise_signal(signal.SIGTERM)


def test_a_deferred_signal_is_raised_where_it_is_allowed_again(plugin: SignalInterrupts) -> None:
    with plugin.deferred():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedCallError), plugin.allowed():
            pytest.fail("the signal came before")


def test_an_agent_waits_for_calls_that_undo_and_for_no_others() -> None:
    agent, undoing, ended = Interrupts(), threading.Event(), threading.Event()

    def call() -> None:
        with agent.deferred():
            with agent.allowed():
                assert agent.wait(0)
            undoing.set()
            ended.wait(30)

    thread = threading.Thread(target=call)
    thread.start()
    assert undoing.wait(30)
    assert not agent.wait(0)
    ended.set()
    assert agent.wait(30)
    thread.join()
