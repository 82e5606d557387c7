"""How long CNI calls and workers retry requests to an API server that is down."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.agent.workers import RECONCILE_WAITS_SECONDS, STUCK_SECONDS, WORKER_PATIENCE_SECONDS
from ratchet.datapath import rtnetlink
from ratchet.errors import ApiUnavailableError, UnavailableError
from ratchet.node import delete, status
from ratchet.node.locks import LOCK_SECONDS
from ratchet.node.record_writer import CONFLICT_SECONDS


def test_del_gets_the_lock_of_a_link_whose_worker_waits_for_the_api() -> None:
    """A worker's pass makes two requests at most after the first one that fails: the write, and the VNI's release."""
    assert 2 * WORKER_PATIENCE_SECONDS + delete.API_SECONDS < LOCK_SECONDS


def test_a_worker_is_stuck_only_after_all_its_timeouts() -> None:
    """Both ends of a link may each wait for the lock, for conflicts, for the API and for the kernel."""
    one_end = LOCK_SECONDS + CONFLICT_SECONDS + 2 * WORKER_PATIENCE_SECONDS + rtnetlink.TIMEOUT
    assert RECONCILE_WAITS_SECONDS + 2 * one_end < STUCK_SECONDS


def test_status_retries_for_two_seconds() -> None:
    patience: list[float] = []

    def connect(seconds: float) -> Any:
        patience.append(seconds)
        raise ApiUnavailableError("cannot reach the Kubernetes API")

    with pytest.raises(UnavailableError, match="cannot serve ADD"):
        status.status(cast(Any, SimpleNamespace(connect=connect)))
    assert patience == [2.0]
