"""Errors of ends after their ADD: reported in the record and as Events, and gone once the end is ready."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from ratchet.cli.progress import progress_of
from ratchet.core.intent import wanted_links
from ratchet.core.model import EndError, Link, Side
from ratchet.core.record_updates import ERROR_MAX, leave, mark_lost, mark_ready, with_error
from ratchet.errors import ApiUnavailableError, DatapathError, InvalidIntentError, RatchetError
from ratchet.node.reconciler import Reconciler
from tests.support.links import NOW, RECORD, declaring_pod, joined, own, pod, veth, vxlan, with_ready
from tests.support.memory import AgentNode, MemoryApi, sandbox_of

PRIMARY, PAIR = Side.PRIMARY, Side.PAIR
REFUSED = DatapathError("cannot create in1: File exists")


class Kernel:
    """Lets each reconciliation of an end fail with the first of these errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: RatchetError) -> None:
        self.errors = list(errors)
        reconcile = Reconciler.reconcile

        def failing(reconciler: Reconciler, *arguments: Any, **options: Any) -> Any:
            if self.errors:
                raise self.errors.pop(0)
            return reconcile(reconciler, *arguments, **options)

        monkeypatch.setattr(Reconciler, "reconcile", failing)


def _reconcile(node: AgentNode) -> Link:
    """Reconcile the link, whether or not that succeeds, and return its record."""
    with suppress(RatchetError):
        node.controller.reconcile(RECORD)
    record = node.record()
    assert record is not None
    return record


def _joined(node: AgentNode) -> None:
    """Join the end of a tunnel, which its node has to build next."""
    node.hold(sandbox_of(PRIMARY))
    node.put_record(joined(sandbox_of(PRIMARY), sandbox_of(PAIR, "node-b")))


def _reasons(node: AgentNode) -> list[str]:
    return [reason for reason, _, _ in node.announcements.events]


def test_an_error_that_occurs_twice_is_reported_and_goes_when_the_end_is_ready(
    node: AgentNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joined(node)
    Kernel(monkeypatch, REFUSED, REFUSED)
    assert _reconcile(node).primary.error is None, "most errors pass"
    error = _reconcile(node).primary.error
    assert error is not None
    assert error.text == str(REFUSED)
    assert ("LinkFailed", str(REFUSED), "in1") in node.announcements.events
    ready = _reconcile(node)
    assert ready.is_ready(PRIMARY)
    assert ready.primary.error is None


def test_an_error_of_a_declaration_is_reported_at_once(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    _joined(node)
    Kernel(monkeypatch, InvalidIntentError("mtu: 9000 is too much"))
    error = _reconcile(node).primary.error
    assert error is not None
    assert error.text == "mtu: 9000 is too much"
    assert "InvalidIntent" in _reasons(node)


def test_an_error_of_the_api_is_not_reported(node: AgentNode, monkeypatch: pytest.MonkeyPatch) -> None:
    _joined(node)
    Kernel(monkeypatch, *[ApiUnavailableError("cannot reach the API")] * 3)
    assert [_reconcile(node).primary.error for _ in range(3)] == [None] * 3
    assert "LinkFailed" not in _reasons(node)


def test_failures_with_a_success_between_them_are_not_reported(
    node: AgentNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joined(node)
    kernel = Kernel(monkeypatch)
    for _ in range(3):
        kernel.errors.append(REFUSED)
        assert _reconcile(node).primary.error is None
        assert _reconcile(node).is_ready(PRIMARY)
        node.verified.forget(RECORD)


def test_a_failed_report_does_not_hide_the_error(
    node: AgentNode, api: MemoryApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joined(node)
    Kernel(monkeypatch, REFUSED, REFUSED)
    _reconcile(node)
    api.failures = [ApiUnavailableError("cannot reach the API")]
    with pytest.raises(DatapathError, match="File exists"):
        node.controller.reconcile(RECORD)


def test_an_error_of_an_end_that_stayed_ready_goes_when_the_end_is_repaired(
    node: AgentNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    _joined(node)
    assert _reconcile(node).is_ready(PRIMARY)
    node.kernel.world = node.kernel.world._replace(interfaces=frozenset())
    node.verified.forget(RECORD)
    Kernel(monkeypatch, REFUSED, REFUSED)
    _reconcile(node)
    assert _reconcile(node).primary.error is not None
    repaired = _reconcile(node)
    assert repaired.primary.error is None
    assert repaired.is_ready(PRIMARY)


# The record


def test_an_error_keeps_its_time_until_it_changes() -> None:
    failed = with_error(vxlan(), PAIR, "no", NOW)
    assert failed.pair.error == EndError(NOW.replace(microsecond=0), "no")
    assert with_error(failed, PAIR, "no", NOW.replace(year=2030)) == failed
    changed = with_error(failed, PAIR, "still no", NOW.replace(year=2030)).pair.error
    assert changed is not None
    assert changed.at.year == 2030


def test_the_text_of_an_error_is_one_line_of_limited_length() -> None:
    error = with_error(vxlan(), PAIR, "a\nb" + "x" * 1000, NOW).pair.error
    assert error is not None
    assert error.text.startswith("a\\nbx")
    assert len(error.text) == ERROR_MAX


def test_an_end_that_waits_gets_no_error() -> None:
    """Its peer has left since a pass failed."""
    waiting = joined(own(PRIMARY), None)
    assert with_error(waiting, PRIMARY, "no", NOW) == waiting


def test_a_record_of_schema_1_has_no_error() -> None:
    earlier = replace(vxlan(), schema=1)
    assert with_error(earlier, PAIR, "no", NOW) == earlier


@pytest.mark.parametrize("side", Side)
def test_both_ends_lose_their_errors_when_a_pod_leaves(side: Side) -> None:
    failed = with_error(with_error(vxlan(), PRIMARY, "no", NOW), PAIR, "no", NOW)
    left = leave(failed, side, own(side, "node-a" if side is PRIMARY else "node-b").container_id, "it left", NOW)
    assert left.sandbox(side) is None
    assert [left.end(one).error for one in Side] == [None, None]


def test_both_ends_of_a_veth_lose_their_errors_when_it_is_ready() -> None:
    failed = with_error(with_error(veth(), PRIMARY, "no", NOW), PAIR, "no", NOW)
    ready = mark_ready(failed, PAIR, NOW)
    assert [ready.end(one).error for one in Side] == [None, None]
    assert mark_ready(with_error(with_ready(veth(), *Side), PRIMARY, "no", NOW), PRIMARY, NOW) == with_ready(
        veth(), *Side
    )


def test_an_error_stays_while_the_end_is_lost() -> None:
    failed = with_error(with_ready(vxlan(), *Side), PAIR, "no", NOW)
    assert mark_lost(failed, PAIR, "its namespace is gone", NOW).pair.error == failed.pair.error


# Commands


def test_progress_gives_the_errors_instead_of_what_the_ends_wait_for() -> None:
    failed = with_error(vxlan(), PAIR, "cannot create in2: File exists", NOW)
    pods = [declaring_pod(), pod("pair-pod")]
    progress = progress_of(wanted_links(pods), {failed.name: failed}, pods)
    assert progress.waiting == {failed.name: "in2 of pod pair-pod on node-b: cannot create in2: File exists"}
