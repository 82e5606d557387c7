"""The informer: it resumes where a watch broke off, backs off, and keeps "unknown" apart from "empty"."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.api_errors import ExpiredError, ForbiddenError
from ratchet.store.listwatch import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    LONGEST_RETRY_AFTER,
    RELIST_AFTER,
    WATCH_INTERVAL,
    Changed,
    Failed,
    Informer,
    Listed,
    Source,
    SyncState,
    Timing,
    backoff,
    list_watch,
    vanished,
)

EXPIRED = ExpiredError("too old")
DOWN = ApiUnavailableError("connection refused")
BUSY = ApiUnavailableError("too many requests", retry_after=7.0)
FORBIDDEN = ForbiddenError("forbidden")
BROKEN = RatchetError("bad request")

Changes = list[tuple[str | None, str]]


class FakeTiming(Timing):
    """A clock that moves with the pauses alone, no jitter; `pauses` are those that were made."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.pauses: list[float] = []
        self.stopping = threading.Event()

    def now(self) -> float:
        return self.clock

    def pause(self, seconds: float) -> None:
        self.clock += max(0.0, seconds)
        self.pauses.append(seconds)

    def spread(self) -> float:
        return 1.0

    def is_stopped(self) -> bool:
        return self.stopping.is_set()


class Api:
    """A collection whose lists and watches go by a script; after its end there is one list, and watches are silent.

    A silent watch lasts until its limit. `asked` are the requests: "list", or the version that a watch began at.
    """

    def __init__(
        self, timing: FakeTiming, lists: Sequence[list[str] | RatchetError], watches: Sequence[Changes | RatchetError]
    ) -> None:
        self.timing = timing
        self.lists, self.watches = list(lists), list(watches)
        self.asked: list[str] = []

    @property
    def source(self) -> Source[str, str]:
        return Source("things", self._list, self._watch)

    def _list(self) -> tuple[list[str], str]:
        self.asked.append("list")
        part = self.lists.pop(0) if self.lists else []
        if isinstance(part, RatchetError):
            raise part
        return part, f"L{len(self.asked)}"

    def _watch(self, version: str, seconds: float) -> Iterator[tuple[str | None, str]]:
        self.asked.append(version)
        if not self.watches:
            self.timing.clock += min(seconds, 120.0)
            return
        part = self.watches.pop(0)
        if isinstance(part, RatchetError):
            raise part
        yield from part


@pytest.fixture
def timing() -> FakeTiming:
    return FakeTiming()


# Pauses


@pytest.mark.parametrize(
    ("failures", "spread", "retry_after", "seconds"),
    [
        (1, 1.0, None, FIRST_PAUSE),
        (1, 0.0, None, FIRST_PAUSE / 2),
        (2, 1.0, None, 2 * FIRST_PAUSE),
        (3, 0.0, None, 2 * FIRST_PAUSE),
        (50, 1.0, None, LONGEST_PAUSE),
        (10**6, 0.0, None, LONGEST_PAUSE / 2),
        (1, 0.0, 7.0, 7.0),
        (1, 1.0, 7.0, 7.0 + FIRST_PAUSE),
        (50, 1.0, 1.0, LONGEST_PAUSE),
        (1, 0.0, 0.0, FIRST_PAUSE / 2),
        (1, 0.0, 10.0**9, LONGEST_RETRY_AFTER),
    ],
)
def test_pauses_grow_are_spread_and_are_never_shorter_than_retry_after(
    failures: int, spread: float, retry_after: float | None, seconds: float
) -> None:
    assert backoff(failures, spread, retry_after) == seconds


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ({}, {}, []),
        ({}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, []),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, [1]),
        ({"a": 1, "b": 2}, {}, [1, 2]),
    ],
)
def test_what_a_new_list_no_longer_has_vanished(
    before: Mapping[str, int], after: Mapping[str, int], gone: list[int]
) -> None:
    assert vanished(before, after) == gone


# The loop


def test_a_collection_is_listed_and_then_watched_from_there(timing: FakeTiming) -> None:
    api = Api(timing, [["a"]], [[("b", "2"), (None, "5")], [("c", "7")]])
    events = list(islice(list_watch(api.source, timing=timing), 3))
    assert events == [Listed(["a"], "L1"), Changed("b"), Changed("c")]
    assert api.asked == ["list", "L1", "5"]
    assert timing.pauses == [WATCH_INTERVAL]


def test_a_watch_from_a_known_version_needs_no_list(timing: FakeTiming) -> None:
    api = Api(timing, [], [[("a", "2")]])
    assert next(list_watch(api.source, version="1", timing=timing)) == Changed("a")
    assert api.asked == ["1"]


@pytest.mark.parametrize("until", [0.0, -5.0])
def test_nothing_is_asked_once_the_time_is_over(timing: FakeTiming, until: float) -> None:
    api = Api(timing, [], [])
    assert list(list_watch(api.source, until=until, timing=timing)) == []
    assert api.asked == []


def test_the_end_of_a_bounded_list_watch_is_kept_to(timing: FakeTiming) -> None:
    api = Api(timing, [], [DOWN] * 20)
    events = list(list_watch(api.source, version="1", until=5.0, timing=timing))
    assert [type(event) for event in events] == [Failed] * len(events)
    assert timing.clock == 5.0


def test_failed_watches_back_off_and_resume_where_they_broke_off(timing: FakeTiming) -> None:
    api = Api(timing, [["a"]], [[("b", "2")], DOWN, DOWN, DOWN, [("c", "3")], DOWN, [("d", "4")]])
    events = [event for event in islice(list_watch(api.source, timing=timing), 8) if not isinstance(event, Failed)]
    assert events == [Listed(["a"], "L1"), Changed("b"), Changed("c"), Changed("d")]
    assert api.asked == ["list", "L1", "2", "2", "2", "2", "3", "3"]
    assert timing.pauses == [WATCH_INTERVAL, 0.5, 1.0, 2.0, WATCH_INTERVAL, 0.5]


@pytest.mark.parametrize("part", ["list", "watch"])
def test_retry_after_is_honoured(timing: FakeTiming, part: str) -> None:
    api = Api(timing, [BUSY, ["a"]], []) if part == "list" else Api(timing, [["a"]], [BUSY])
    failed = next(event for event in list_watch(api.source, timing=timing) if isinstance(event, Failed))
    assert failed == Failed(BUSY, 7.0 + FIRST_PAUSE, unknown=part == "list")


@pytest.mark.parametrize("cause", [FORBIDDEN, DOWN, BROKEN])
def test_a_failed_list_is_retried_with_backoff_until_it_succeeds(timing: FakeTiming, cause: RatchetError) -> None:
    api = Api(timing, [cause, cause, cause, ["a"]], [])
    events = list(islice(list_watch(api.source, timing=timing), 4))
    assert events == [*(Failed(cause, pause, unknown=True) for pause in (0.5, 1.0, 2.0)), Listed(["a"], "L4")]


def test_after_410_the_collection_is_listed_at_once(timing: FakeTiming) -> None:
    api = Api(timing, [["a"], ["b"]], [EXPIRED])
    events = list(islice(list_watch(api.source, timing=timing), 3))
    assert events == [Listed(["a"], "L1"), Failed(EXPIRED, 0.0, unknown=True), Listed(["b"], "L3")]


def test_one_410_after_another_backs_off(timing: FakeTiming) -> None:
    api = Api(timing, [], [EXPIRED] * 4)
    list(islice(list_watch(api.source, timing=timing), 9))
    assert timing.pauses == [0.0, 0.5, 1.0, 2.0]


def test_a_watch_that_becomes_forbidden_is_listed_again(timing: FakeTiming) -> None:
    """Nobody knows when a watch is open, so only a list shows that the account may read again."""
    api = Api(timing, [["a"], FORBIDDEN, ["b"]], [FORBIDDEN])
    events = [event for event in islice(list_watch(api.source, timing=timing), 4) if isinstance(event, Listed)]
    assert events == [Listed(["a"], "L1"), Listed(["b"], "L4")]


@pytest.mark.parametrize(("lists", "unknown"), [([["b"]], False), ([DOWN, ["b"]], True)])
def test_a_collection_whose_watch_keeps_failing_is_listed_and_is_unknown_if_that_fails_too(
    timing: FakeTiming, lists: list[list[str] | RatchetError], unknown: bool
) -> None:
    api = Api(timing, [["a"], *lists], [DOWN] * (RELIST_AFTER + 1))
    events = list(islice(list_watch(api.source, timing=timing), 1 + RELIST_AFTER + len(lists)))
    assert api.asked == ["list", *["L1"] * RELIST_AFTER, *["list"] * len(lists)]
    assert isinstance(events[-1], Listed)
    assert [event.unknown for event in events if isinstance(event, Failed)] == [False] * RELIST_AFTER + [True] * unknown


@pytest.mark.parametrize(("cause", "fatal"), [(DOWN, False), (FORBIDDEN, False), (EXPIRED, False), (BROKEN, True)])
def test_what_a_retry_cannot_mend_is_for_a_caller_with_a_deadline(cause: RatchetError, fatal: bool) -> None:
    failed = Failed(cause, 1.0, unknown=False)
    if not fatal:
        failed.raise_if_fatal()
        return
    with pytest.raises(RatchetError, match="bad request"):
        failed.raise_if_fatal()


def test_failures_in_a_row_are_logged_once(timing: FakeTiming, caplog: pytest.LogCaptureFixture) -> None:
    api = Api(timing, [["a"]], [DOWN, DOWN, FORBIDDEN, [("b", "3")], DOWN, DOWN, [("c", "4")]])
    with caplog.at_level("WARNING"):
        list(islice(list_watch(api.source, timing=timing), 9))
    causes = [record.getMessage().rpartition("cause=")[2].strip('"') for record in caplog.records]
    assert causes == ["connection refused", "forbidden", "connection refused"]


# The informer


class Things:
    """A store of words. A change is a word; "-word" deletes it."""

    def __init__(self) -> None:
        self.state = SyncState()
        self.words: set[str] = set()

    def replace(self, objects: Collection[str], version: str) -> list[str]:
        before, self.words = {word: f"-{word}" for word in sorted(self.words)}, set(objects)
        return vanished(before, {word: word for word in objects})

    def apply(self, change: str) -> bool:
        before = set(self.words)
        if change.startswith("-"):
            self.words.discard(change[1:])
        else:
            self.words.add(change)
        return self.words != before


def informed(api: Api, stop: Callable[[int, Things], bool]) -> tuple[Things, list[list[str]], list[bool]]:
    """What an informer left, what it notified of, and whether the store was synced after each request.

    It is stopped when `stop` says so of the number of requests and the store.
    """
    things, told, synced = Things(), list[list[str]](), list[bool]()
    informer = Informer(api.source, things, lambda changes: told.append([*changes]), timing=lambda _: api.timing)
    pause = api.timing.pause

    def look(seconds: float) -> None:
        synced.append(things.state.is_synced)
        if stop(len(api.asked), things):
            api.timing.stopping.set()
            informer.stop()
        pause(seconds)

    api.timing.pause = look  # type: ignore[method-assign]
    informer.run()
    return things, told, synced


def test_a_gap_of_410_reports_what_vanished_in_it_as_deletions(timing: FakeTiming) -> None:
    api = Api(timing, [["a", "b"], ["b", "c"]], [EXPIRED])
    things, told, _ = informed(api, lambda asked, _: asked >= 4)
    assert things.words == {"b", "c"}
    assert told == [[], ["-a"]]


def test_only_changes_that_make_a_difference_are_notified(timing: FakeTiming) -> None:
    api = Api(timing, [["a"]], [[("a", "2"), ("b", "3"), ("-x", "4"), ("-a", "5")]])
    things, told, _ = informed(api, lambda asked, _: asked >= 2)
    assert things.words == {"b"}
    assert told == [[], ["b"], ["-a"]]


def test_a_forbidden_collection_is_unknown_and_not_empty_until_it_can_be_listed(timing: FakeTiming) -> None:
    api = Api(timing, [FORBIDDEN, FORBIDDEN, ["a"], FORBIDDEN, ["b"]], [FORBIDDEN])
    things, told, synced = informed(api, lambda asked, _: asked >= 7)
    # forbidden, forbidden, listed and its watch forbidden, the list after it forbidden, listed
    assert synced == [False, False, False, False, True]
    assert told == [[], ["-a"]]
    assert things.words == {"b"}
    assert things.state.cause is None


def test_what_is_known_stays_while_the_api_is_away_and_says_why_where_it_is_unknown(timing: FakeTiming) -> None:
    things, _, synced = informed(Api(timing, [["a"]], [DOWN, DOWN]), lambda asked, _: asked >= 3)
    assert (synced, things.words) == ([True, True], {"a"})
    timing = FakeTiming()
    things, _, _ = informed(Api(timing, [DOWN], []), lambda *_: True)
    assert (things.state.is_synced, things.state.cause) == (False, DOWN)


def test_a_fault_of_a_handler_is_logged_and_the_collection_is_listed_again(
    timing: FakeTiming, caplog: pytest.LogCaptureFixture
) -> None:
    api, things, calls = Api(timing, [["a"], ["a"]], []), Things(), list[int]()

    def notify(_: Sequence[str]) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("a fault")
        timing.stopping.set()
        informer.stop()

    informer = Informer(api.source, things, notify, timing=lambda _: timing)
    informer.run()
    assert api.asked[:2] == ["list", "list"]
    assert 'informer failed collection="things"' in caplog.text


def test_an_informer_ends_its_thread_when_it_is_stopped_while_it_pauses() -> None:
    listed = threading.Event()

    def fail() -> tuple[list[str], str]:
        listed.set()
        raise FORBIDDEN

    informer = Informer(Source("things", fail, lambda *_: iter(())), Things())
    informer.start()
    (thread,) = [one for one in threading.enumerate() if one.name == "informer-things"]
    assert listed.wait(10)
    informer.stop()
    thread.join(10)
    assert not thread.is_alive()
