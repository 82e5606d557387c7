"""The error of an end in its record, which its agent writes while the pods of both ends come and go.

A pass over an end has failed and has released the link's lock. Its report is the real `EndFailures.report`. Until the
error is written, any other process may act: DEL, ADD, the agents, and the agent may be killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from ratchet.agent import failures
from ratchet.agent.failures import EndFailures
from ratchet.cni.command import Command
from ratchet.core import plan, record_updates
from ratchet.core.model import EndError, Link, Side, State
from ratchet.core.plan import Attempt
from ratchet.core.state_machine import derive
from ratchet.errors import InvalidIntentError, RatchetError
from ratchet.node.journal import SandboxEntry
from ratchet.node.record_writer import RecordWriter
from ratchet.store.apiserver import MERGE_PATCH
from ratchet.store.session import Json
from tests.protocol.asking import FakeApi, ask
from tests.protocol.exploring import END, LIVELOCK, Process, Report, Search, assert_no_fault
from tests.protocol.mutations import Mutation, UnversionedApi
from tests.protocol.scenes import (
    RECORDS,
    Expectation,
    Rules,
    UnobservableRequests,
    add_process,
    agent,
    attempt_of,
    call_of,
    del_process,
    link_of,
)
from tests.protocol.world import Actor, World
from tests.support.lanes import with_thorough

OF_ANOTHER = "an error is not of the sandbox that has the end"
OF_WAITING_END = "an end that waits for its peer has an error"
OF_LINKED = "a linked record has an error"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def failing(attempt: Attempt, rules: Rules, number: int = 0) -> Process:
    """A pass of the agent over an end that both pods have joined: it fails, and its error is reported.

    The agent may be killed at any step.
    """
    sandbox = attempt.sandbox

    def joined(world: World, _: Actor) -> Iterator[tuple[str, str]]:
        for path, text in world.objects:
            if not path.startswith(RECORDS) or (record := link_of(text)).kind is None:
                continue
            if record.side_of(sandbox.container_id) is not None:
                yield path, text

    def report() -> str:
        ask("notice", joined)
        call = call_of(attempt, Command.ADD, rules)
        entry = call.journal.read(call.attachment)
        assert entry is not None
        announcer: Any = SimpleNamespace(event=lambda *_: None)
        reporter = EndFailures(rules.store(), call.journal, announcer)
        with suppress(RatchetError):  # the API does not have the record any more
            reporter.report(entry, entry.ends[0], InvalidIntentError(f"{sandbox.container_id} cannot be built"))
        return END

    name = f"report of {sandbox.container_id} {number or ''}".strip()
    return Process(name, sandbox.node, {"report": report}, "report", killable=True)


@dataclass(frozen=True)
class ErrorScene:
    """Sandbox s1 on node A is deleted, and s2 replaces it on node `second`. The pair's sandbox t1 is on node `pair`.

    `fails`: the sandboxes of which an end fails once. `gone`: there is no s2. `late_del`: DEL of s1 comes twice.
    """

    second: str
    pair: str
    fails: str
    gone: bool = False
    late_del: bool = False

    def search(self, rules: Rules = Rules()) -> Search:  # noqa: B008  # frozen
        s1, s2 = attempt_of("s1", Side.PRIMARY, "A"), attempt_of("s2", Side.PRIMARY, self.second)
        t1 = attempt_of("t1", Side.PAIR, self.pair)
        attempts = {"s1": s1, "s2": s2, "t1": t1}
        add = partial(add_process, waits_for_peer=False, killable=False, rules=rules)
        found = [add(s1), add(t1), del_process(s1, rules=rules)]
        if not self.gone:
            found.append(add(s2, after="s1"))
        if self.late_del:
            found.append(del_process(s1, rules=rules, again=True))
        found += [failing(attempts[one], rules) for one in self.fails.split()]
        found += [agent(node, rules) for node in sorted({"A", self.second, self.pair})]
        live = None if self.gone else ("s2", "t1")
        unobservable = UnobservableRequests(frozenset({"s1"}), frozenset())
        return Search(World(), found, Expectation(live).check, unobservable, check_world=error_faults)


def error_faults(world: World, quiet: bool) -> Iterator[str]:
    """The faults of the errors in the records of a world."""
    for text in (text for path, text in world.objects if path.startswith(RECORDS)):
        record = link_of(text)
        failed = [side for side in Side if record.end(side).error is not None]
        if any(not _reported_by_holder(record, side) for side in failed):
            yield OF_ANOTHER
        if failed and record.kind is None:
            yield OF_WAITING_END
        if failed and quiet and derive(record) is State.LINKED:
            yield OF_LINKED


def _reported_by_holder(record: Link, side: Side) -> bool:
    error, sandbox = record.end(side).error, record.sandbox(side)
    return error is not None and sandbox is not None and error.text.split()[0] == sandbox.container_id


SCENES = {
    "vEth, the own pod restarts": ErrorScene("A", "A", "s1"),
    "vEth, the peer restarts": ErrorScene("A", "A", "t1", late_del=True),
    "vEth, the peer leaves": ErrorScene("A", "A", "t1", gone=True),
    "VXLAN, the own pod restarts": ErrorScene("A", "B", "s1"),
    "VXLAN, the peer restarts": ErrorScene("A", "B", "t1"),
    "VXLAN, the peer leaves": ErrorScene("A", "B", "t1", gone=True),
    "from vEth to VXLAN": ErrorScene("B", "A", "t1"),
}
LARGE = {
    "vEth, both ends fail": ErrorScene("A", "A", "s2 t1", late_del=True),
    "VXLAN, both ends fail": ErrorScene("A", "B", "s1 t1"),
}


@pytest.fixture(autouse=True)
def fixed_time() -> Iterator[None]:
    """The time of an error is in its record, so it must be the same in equal worlds."""
    with patch.object(failures, "RecordWriter", partial(RecordWriter, now=lambda: NOW)):
        yield


@pytest.mark.parametrize("name", with_thorough(SCENES, ["VXLAN, the own pod restarts", "VXLAN, the peer restarts"]))
def test_no_order_of_steps_leaves_a_wrong_error(name: str, print_report: Callable[[Report], None]) -> None:
    report = SCENES[name].search().run()
    print_report(report)
    assert_no_fault(report)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", LARGE)
def test_no_order_of_steps_leaves_a_wrong_error_in_large_scenes(
    name: str, print_report: Callable[[Report], None]
) -> None:
    report = LARGE[name].search().run(max_states=20_000_000)
    print_report(report)
    assert_no_fault(report)


def test_an_error_of_a_linked_record_always_goes(print_report: Callable[[Report], None]) -> None:
    """A way to rest leads from everywhere, and at rest a linked record has no error."""
    report = ErrorScene("A", "A", "t1").search().run(to_rest=True)
    print_report(report)
    assert not report.faults, str(report)


# Mutations


class UnversionedErrorApi(UnversionedApi):
    """The write of an error has no resourceVersion as precondition. All other writes have one."""

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        writes_error = any(key.endswith(".error") and value for key, value in body.get("data", {}).items())
        return super().patch(path, body) if writes_error else FakeApi.patch(self, path, body)


@contextmanager
def reporting_without_comparing() -> Iterator[None]:
    """The error is written to the end of the failed sandbox, whichever sandbox has that end now."""

    def with_error(entry: SandboxEntry, text: str, writer: RecordWriter, record: Link) -> Link:
        return record_updates.with_error(record, entry.ends[0].side, text, writer.now())

    with patch.object(EndFailures, "_with_error", staticmethod(with_error)):
        yield


@contextmanager
def reporting_of_waiting_ends() -> Iterator[None]:
    """The error is written also if the peer has left since."""

    def with_error(record: Link, side: Side, text: str, now: datetime) -> Link:
        return record.with_end(side, replace(record.end(side), error=EndError(now, text)))

    with patch.object(record_updates, "with_error", with_error):
        yield


@contextmanager
def leaving_with_errors() -> Iterator[None]:
    """A sandbox that leaves leaves the errors of both ends in the record."""
    leave = record_updates.leave

    def left(record: Link, side: Side, container_id: str, reason: str, now: datetime) -> Link:
        after = leave(record, side, container_id, reason, now)
        return after if after is record else _with_errors_of(record, after)

    with patch.object(record_updates, "leave", left):
        yield


def _with_errors_of(before: Link, after: Link) -> Link:
    for side in Side:
        after = after.with_end(side, replace(after.end(side), error=before.end(side).error))
    return after


@contextmanager
def ready_with_an_error() -> Iterator[None]:
    """An end that is ready is left as it is, also if it has an error."""
    step = plan._step_toward

    def step_toward(*given: Any, ready: bool, failed: bool) -> Any:
        return step(*given, ready=ready, failed=False)

    with patch.object(plan, "_step_toward", step_toward):
        yield


# Each with the smallest scene that shows it, and the fault that the rule prevents.
MUTATIONS: dict[str, tuple[Mutation, ErrorScene, str]] = {
    "writing without comparing": (
        Mutation(patched=reporting_without_comparing),
        ErrorScene("A", "A", "s1"),
        OF_ANOTHER,
    ),
    "writing without a version": (Mutation(Rules(api=UnversionedErrorApi)), ErrorScene("B", "A", "s1"), OF_ANOTHER),
    "writing for an end that waits": (
        Mutation(patched=reporting_of_waiting_ends),
        ErrorScene("A", "A", "t1", gone=True),
        OF_WAITING_END,
    ),
    "leaving without clearing": (Mutation(patched=leaving_with_errors), ErrorScene("A", "A", "s1"), OF_ANOTHER),
    "ready without clearing": (Mutation(patched=ready_with_an_error), ErrorScene("A", "A", "t1"), LIVELOCK),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_search_finds_the_fault_of_each_mutation(name: str, print_report: Callable[[Report], None]) -> None:
    mutation, scene, expected = MUTATIONS[name]
    with mutation.patched():
        report = scene.search(mutation.rules).run(first_fault=expected != LIVELOCK, to_rest=expected == LIVELOCK)
    print_report(report)
    assert expected in report.faults, str(report)
