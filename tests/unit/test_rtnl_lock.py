"""The lock that serializes kernel requests of the threads of a process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ratchet.datapath.rtnl_lock import holding_rtnl_lock

SECONDS = 20.0


def test_a_second_thread_waits_until_the_first_returns() -> None:
    inside, second_inside, go_on = threading.Event(), threading.Event(), threading.Event()
    order: list[str] = []

    @holding_rtnl_lock
    def act(name: str) -> str:
        order.append(f"{name} begins")
        if name == "first":
            inside.set()
            assert go_on.wait(SECONDS)
        else:
            second_inside.set()
        order.append(f"{name} ends")
        return name

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(act, "first")
        assert inside.wait(SECONDS)
        second = threads.submit(act, "second")
        assert not second_inside.wait(0.3)
        go_on.set()
        assert (first.result(SECONDS), second.result(SECONDS)) == ("first", "second")
    assert order == ["first begins", "first ends", "second begins", "second ends"]


def test_an_error_releases_the_lock() -> None:
    @holding_rtnl_lock
    def fail() -> None:
        raise ValueError("the kernel's no")

    for _ in range(2):
        with pytest.raises(ValueError, match="the kernel's no"):
            fail()
