"""Following a collection: it goes on where it broke off, says when it could not, and never asks in a busy loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store import follow as follow_module
from ratchet.store.apiserver import ExpiredError
from ratchet.store.follow import ROUND_SECONDS, follow

Told = list[tuple[str, str]]
Script = list[Told | RatchetError]

EXPIRED = ExpiredError("too old")
DOWN = ApiUnavailableError("connection refused")


class Watch:
    """Streams that each tell what the script says, and then break; after the script's end they tell nothing.

    `asked` are the versions that the streams began at, `left` the seconds that each was given.
    """

    def __init__(self, *script: Told | RatchetError) -> None:
        self.script: Script = list(script)
        self.asked: list[str] = []
        self.left: list[float] = []

    def __call__(self, version: str, seconds: float) -> Iterator[tuple[str, str]]:
        self.asked.append(version)
        self.left.append(seconds)
        for part in self.script[:1]:
            del self.script[0]
            if isinstance(part, RatchetError):
                raise part
            yield from part


class Renew:
    """Lists that are as new as the script says, an error where it has one."""

    def __init__(self, *script: str | RatchetError) -> None:
        self.script = list(script)

    def __call__(self) -> str:
        part = self.script.pop(0)
        if isinstance(part, RatchetError):
            raise part
        return part


def no_renewal() -> str:
    raise AssertionError("listed without need")


def test_it_tells_what_the_watch_tells() -> None:
    watch = Watch([("a", "2"), ("b", "3")])
    until = time.monotonic() + 0.1
    assert list(follow(watch, no_renewal, "1", until)) == ["a", "b"]
    assert watch.asked == ["1"]
    assert 0 < watch.left[0] <= 0.1
    assert time.monotonic() >= until


def test_what_comes_is_told_at_once() -> None:
    began = time.monotonic()
    assert list(islice(follow(Watch([("a", "2")]), no_renewal, "1", began + 60), 1)) == ["a"]
    assert time.monotonic() - began < ROUND_SECONDS / 2


def test_nothing_is_asked_once_the_time_is_over() -> None:
    watch = Watch()
    assert list(follow(watch, no_renewal, "1", time.monotonic())) == []
    assert list(follow(watch, no_renewal, "1", time.monotonic() - 5)) == []
    assert watch.asked == []


def test_streams_that_break_at_once_are_no_more_than_one_a_second_and_go_on_where_they_broke() -> None:
    watch = Watch([("a", "2"), ("", "5")], [("b", "7")])
    assert list(follow(watch, no_renewal, "1", time.monotonic() + 1.1)) == ["a", "", "b"]
    assert watch.asked == ["1", "5"]


def test_a_version_that_is_too_old_is_renewed_and_anything_may_have_changed() -> None:
    watch = Watch(EXPIRED, [("a", "10")])
    assert list(follow(watch, Renew("9"), "1", time.monotonic() + 1.1)) == [None, "a"]
    assert watch.asked == ["1", "9"]


def test_a_version_that_grows_too_old_is_told_at_once() -> None:
    began = time.monotonic()
    assert next(follow(Watch(EXPIRED), Renew("9"), "1", began + 60)) is None
    assert time.monotonic() - began < ROUND_SECONDS / 2


@pytest.mark.parametrize("watch", [Watch(DOWN, DOWN, DOWN), Watch(DOWN, [("a", "2")])], ids=["for good", "for a while"])
def test_an_api_that_is_down_is_asked_again_until_the_time_is_over(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    comes_back = len(watch.script) == 2
    assert list(follow(watch, no_renewal, "1", time.monotonic() + 1.1)) == (["a"] if comes_back else [])
    assert watch.asked == ["1", "1"]
    assert "connection refused; watching again" in caplog.text


def test_an_api_that_goes_down_before_the_list_is_asked_again_too() -> None:
    watch = Watch(EXPIRED, EXPIRED)
    assert list(follow(watch, Renew(DOWN, "9"), "1", time.monotonic() + 1.1)) == [None]
    assert watch.asked == ["1", "1"]


def test_another_error_is_the_callers() -> None:
    forbidden = RatchetError("forbidden")
    with pytest.raises(RatchetError, match="forbidden"):
        list(follow(Watch(forbidden), no_renewal, "1", time.monotonic() + 60))


def test_an_api_that_stays_away_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follow_module, "ROUND_SECONDS", 0.001)
    watch = Watch(DOWN, DOWN, DOWN, [("a", "2")], DOWN, DOWN, [], DOWN, [("b", "3")])
    with caplog.at_level("WARNING"):
        assert list(islice(follow(watch, no_renewal, "1", time.monotonic() + 10), 2)) == ["a", "b"]
    assert [record.getMessage() for record in caplog.records] == ["connection refused; watching again"] * 3
