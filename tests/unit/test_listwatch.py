"""The informer: it resumes a failed watch, backs off, and distinguishes "unknown" from "empty"."""

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
    """A clock that moves with the pauses, without jitter. `pauses` records them."""

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
    """A collection with scripted lists and watches.

    After the script, lists are empty and watches are silent until their limit. `asked` has the
    requests: "list", or the version that a watch began at.
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


# Backoff


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
def test_backoff_grows_has_jitter_and_is_not_shorter_than_retry_after(
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
def test_objects_missing_from_a_new_list_have_vanished(
    before: Mapping[str, int], after: Mapping[str, int], gone: list[int]
) -> None:
    assert vanished(before, after) == gone


# The list-watch loop


def test_a_collection_is_listed_and_watched_from_that_version(timing: FakeTiming) -> None:
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
def test_no_request_is_sent_after_the_deadline(timing: FakeTiming, until: float) -> None:
    api = Api(timing, [], [])
    assert list(list_watch(api.source, until=until, timing=timing)) == []
    assert api.asked == []


def test_a_bounded_list_watch_ends_at_its_deadline(timing: FakeTiming) -> None:
    api = Api(timing, [], [DOWN] * 20)
    events = list(list_watch(api.source, version="1", until=5.0, timing=timing))
    assert [type(event) for event in events] == [Failed] * len(events)
    assert timing.clock == 5.0


def test_failed_watches_back_off_and_resume_from_the_last_version(timing: FakeTiming) -> None:
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


def test_repeated_410_errors_back_off(timing: FakeTiming) -> None:
    api = Api(timing, [], [EXPIRED] * 4)
    list(islice(list_watch(api.source, timing=timing), 9))
    assert timing.pauses == [0.0, 0.5, 1.0, 2.0]


def test_a_watch_that_becomes_forbidden_is_listed_again(timing: FakeTiming) -> None:
    """Only a list shows that the account may read again."""
    api = Api(timing, [["a"], FORBIDDEN, ["b"]], [FORBIDDEN])
    events = [event for event in islice(list_watch(api.source, timing=timing), 4) if isinstance(event, Listed)]
    assert events == [Listed(["a"], "L1"), Listed(["b"], "L4")]


@pytest.mark.parametrize(("lists", "unknown"), [([["b"]], False), ([DOWN, ["b"]], True)])
def test_a_collection_with_a_failing_watch_is_listed_and_unknown_if_that_fails(
    timing: FakeTiming, lists: list[list[str] | RatchetError], unknown: bool
) -> None:
    api = Api(timing, [["a"], *lists], [DOWN] * (RELIST_AFTER + 1))
    events = list(islice(list_watch(api.source, timing=timing), 1 + RELIST_AFTER + len(lists)))
    assert api.asked == ["list", *["L1"] * RELIST_AFTER, *["list"] * len(lists)]
    assert isinstance(events[-1], Listed)
    assert [event.unknown for event in events if isinstance(event, Failed)] == [False] * RELIST_AFTER + [True] * unknown


@pytest.mark.parametrize(("cause", "fatal"), [(DOWN, False), (FORBIDDEN, False), (EXPIRED, False), (BROKEN, True)])
def test_only_an_error_that_a_retry_cannot_fix_is_fatal(cause: RatchetError, fatal: bool) -> None:
    failed = Failed(cause, 1.0, unknown=False)
    if not fatal:
        failed.raise_if_fatal()
        return
    with pytest.raises(RatchetError, match="bad request"):
        failed.raise_if_fatal()


def test_a_repeated_failure_is_logged_once(timing: FakeTiming, caplog: pytest.LogCaptureFixture) -> None:
    api = Api(timing, [["a"]], [DOWN, DOWN, FORBIDDEN, [("b", "3")], DOWN, DOWN, [("c", "4")]])
    with caplog.at_level("WARNING"):
        list(islice(list_watch(api.source, timing=timing), 9))
    causes = [record.getMessage().rpartition("cause=")[2].strip('"') for record in caplog.records]
    assert causes == ["connection refused", "forbidden", "connection refused"]


# The informer


class Things:
    """A cache of words. A change is a word; "-word" deletes it."""

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


def run_informer(api: Api, stop: Callable[[int, Things], bool]) -> tuple[Things, list[list[str]], list[bool]]:
    """Run an informer, and return its cache, its notifications, and its sync state at each pause.

    `stop` gets the number of requests and the cache, and returns whether to stop.
    """
    things, notified, synced = Things(), list[list[str]](), list[bool]()
    informer = Informer(api.source, things, lambda changes: notified.append([*changes]), timing=lambda _: api.timing)
    pause = api.timing.pause

    def check(seconds: float) -> None:
        synced.append(things.state.is_synced)
        if stop(len(api.asked), things):
            api.timing.stopping.set()
            informer.stop()
        pause(seconds)

    api.timing.pause = check  # type: ignore[method-assign]
    informer.run()
    return things, notified, synced


def test_objects_that_vanish_during_a_410_are_reported_as_deletions(timing: FakeTiming) -> None:
    api = Api(timing, [["a", "b"], ["b", "c"]], [EXPIRED])
    things, notified, _ = run_informer(api, lambda asked, _: asked >= 4)
    assert things.words == {"b", "c"}
    assert notified == [[], ["-a"]]


def test_a_change_without_effect_is_not_notified(timing: FakeTiming) -> None:
    api = Api(timing, [["a"]], [[("a", "2"), ("b", "3"), ("-x", "4"), ("-a", "5")]])
    things, notified, _ = run_informer(api, lambda asked, _: asked >= 2)
    assert things.words == {"b"}
    assert notified == [[], ["b"], ["-a"]]


def test_a_forbidden_collection_is_unknown_and_not_empty_until_it_can_be_listed(timing: FakeTiming) -> None:
    api = Api(timing, [FORBIDDEN, FORBIDDEN, ["a"], FORBIDDEN, ["b"]], [FORBIDDEN])
    things, notified, synced = run_informer(api, lambda asked, _: asked >= 7)
    # two forbidden lists, a list with a forbidden watch, a forbidden list, a list
    assert synced == [False, False, False, False, True]
    assert notified == [[], ["-a"]]
    assert things.words == {"b"}
    assert things.state.cause is None


def test_only_a_listed_cache_stays_synced_while_the_api_is_down(timing: FakeTiming) -> None:
    things, _, synced = run_informer(Api(timing, [["a"]], [DOWN, DOWN]), lambda asked, _: asked >= 3)
    assert (synced, things.words) == ([True, True], {"a"})
    timing = FakeTiming()
    things, _, _ = run_informer(Api(timing, [DOWN], []), lambda *_: True)
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


def test_stop_ends_the_thread_of_a_pausing_informer() -> None:
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
