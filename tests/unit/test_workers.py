"""The workers: they reconcile each key, retry failed keys, and end when the queue is closed."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from ratchet.agent.controller import LinkController
from ratchet.agent.membership import Membership
from ratchet.agent.metrics import Metrics
from ratchet.agent.priority import ForegroundGate
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.workers import Workers
from ratchet.errors import ConflictError
from ratchet.store.api_errors import AdmissionDeniedError


class FakeReconciler:
    """A controller or a membership that records what it reconciles, and raises `failures` first."""

    def __init__(self) -> None:
        self.done: list[tuple[str, ...]] = []
        self.failures: list[Exception] = []
        self.changed = threading.Condition()

    def reconcile(self, *what: str) -> None:
        with self.changed:
            failure = self.failures.pop(0) if self.failures else None
            if failure is None:
                self.done.append(what)
            self.changed.notify()
        if failure is not None:
            raise failure

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.done) >= count, 10)


class Working:
    """Two workers of a queue."""

    def __init__(self) -> None:
        self.queue = ReconcileQueue()
        self.metrics = Metrics()
        self.links, self.pods = FakeReconciler(), FakeReconciler()
        controller, membership = cast(LinkController, self.links), cast(Membership, self.pods)
        Workers(self.queue, controller, membership, ForegroundGate(), self.metrics).start(2)


@pytest.fixture
def working() -> Any:
    made = Working()
    yield made
    made.queue.close()


def test_links_and_pods_are_reconciled(working: Working) -> None:
    working.queue.enqueue_link("l")
    working.queue.enqueue_pod("ns", "p")
    working.links.wait_for(1)
    working.pods.wait_for(1)
    assert (working.links.done, working.pods.done) == ([("l",)], [("ns", "p")])


@pytest.mark.parametrize("error", [ConflictError("cannot update the record"), ZeroDivisionError("a bug")])
def test_a_key_that_fails_is_retried_and_counted(
    working: Working, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    working.links.failures.append(error)
    working.queue.enqueue_link("l")
    working.links.wait_for(1)
    name = type(error).__name__
    assert f'ratchet_retries_total{{reason="{name}"}} 1.0' in working.metrics.text().decode()
    (retried,) = (one.getMessage() for one in caplog.records if "retry_in" in one.getMessage())
    assert retried.startswith("reconciliation failed kind=link retry_in=0.")
    assert retried.endswith(f'cause="{error}"')


def test_the_log_line_of_a_failure_has_the_details_of_its_error(
    working: Working, caplog: pytest.LogCaptureFixture
) -> None:
    working.links.failures.append(AdmissionDeniedError("cannot POST: exceeded quota", details="raise its limits"))
    working.queue.enqueue_link("l")
    working.links.wait_for(1)
    (retried,) = (one.getMessage() for one in caplog.records if "retry_in" in one.getMessage())
    assert retried.endswith('cause="cannot POST: exceeded quota" details="raise its limits"')


def test_workers_end_when_the_queue_is_closed() -> None:
    before = {thread for thread in threading.enumerate() if thread.name.startswith("worker-")}
    working = Working()
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]
    working.queue.close()
    for worker in set(workers) - before:
        worker.join(10)
        assert not worker.is_alive()
