"""The time budget of a call: each party answers before the one that waits for it gives up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ratchet.cni.budget import (
    AGENT_SECONDS,
    DELEGATE_LEAST_SECONDS,
    DELEGATE_SECONDS,
    RUNTIME_SECONDS,
    SHIM_SECONDS,
    delegate_seconds,
    wait_seconds,
)
from ratchet.cni.command import Command
from ratchet.core.intent import WAIT_MAX_SECONDS

SHIM = Path(__file__).parents[2] / "shim" / "ratchet.c"
ADD, DEL, CHECK, GC, STATUS = Command.ADD, Command.DEL, Command.CHECK, Command.GC, Command.STATUS
FOREVER = 100_000.0


@pytest.mark.parametrize("command", Command)
def test_the_agent_answers_before_the_shim_and_the_shim_before_the_runtime(command: Command) -> None:
    assert AGENT_SECONDS[command] < SHIM_SECONDS[command] < RUNTIME_SECONDS.get(command, FOREVER)


def test_the_shim_has_the_same_limits() -> None:
    defined = dict(re.findall(r"^#define ([A-Z]+)_MS (\d+)$", SHIM.read_text(), re.MULTILINE))
    assert {one: float(defined[one.value]) / 1000 for one in Command} == SHIM_SECONDS


@pytest.mark.parametrize(
    ("wanted", "elapsed", "seconds"),
    [(0, 0, 0), (5, 0, 5), (150, 0, 150), (150, 10, 140), (1000, 0, 150), (60, 120, 30), (5, 200, 0), (-3, 0, 0)],
)
def test_the_wait_for_peers_ends_with_the_set_up(wanted: float, elapsed: float, seconds: float) -> None:
    assert wait_seconds(wanted, elapsed) == seconds


@pytest.mark.parametrize(
    ("call", "verb", "elapsed", "seconds"),
    [
        (ADD, ADD, 0, 110),
        (ADD, ADD, 20, 110),
        (ADD, ADD, 60, 75),
        (ADD, ADD, 134, DELEGATE_LEAST_SECONDS),
        (ADD, DEL, 130, 50),
        (ADD, DEL, 150, 45),
        (ADD, DEL, 190, 5),
        (DEL, DEL, 0, 50),
        (DEL, DEL, 50, 35),
        (DEL, DEL, 85, DELEGATE_LEAST_SECONDS),
        (GC, DEL, 60, 25),
        (GC, GC, 0, 30),
        (CHECK, CHECK, 0, 28),
        (STATUS, STATUS, 2, 5),
        (STATUS, STATUS, 7, DELEGATE_LEAST_SECONDS),
        (DEL, DEL, -FOREVER, 50),
    ],
)
def test_a_delegate_gets_what_the_call_has_left(call: Command, verb: Command, elapsed: float, seconds: float) -> None:
    assert delegate_seconds(call, verb, elapsed) == seconds


@pytest.mark.parametrize("api", [0.0, 15.0, 20.0])
@pytest.mark.parametrize("delegate", [0.0, 30.0, FOREVER])
@pytest.mark.parametrize("wait", [0.0, 5.0, 60.0, WAIT_MAX_SECONDS, FOREVER])
def test_the_slowest_add_is_undone_and_answered_in_time(api: float, delegate: float, wait: float) -> None:
    """The API takes `api` seconds, the delegate `delegate` seconds, and the peer never comes."""
    elapsed = api
    until = elapsed + wait_seconds(wait - api, elapsed)
    elapsed += min(delegate, delegate_seconds(ADD, ADD, elapsed))
    elapsed = max(elapsed, until)
    left_for_del = delegate_seconds(ADD, DEL, elapsed)
    assert left_for_del >= 45
    assert elapsed + min(delegate, left_for_del) <= AGENT_SECONDS[ADD]


def test_two_delegates_that_hang_do_not_outlast_a_del() -> None:
    elapsed = 0.0
    for _ in range(2):
        elapsed += delegate_seconds(DEL, DEL, elapsed)
    assert elapsed <= AGENT_SECONDS[DEL]


def test_no_delegate_gets_more_than_its_own_limit() -> None:
    for verb, most in DELEGATE_SECONDS.items():
        assert delegate_seconds(ADD, verb, float("-inf")) == most
