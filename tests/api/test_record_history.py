"""The history of records that tests check: it has all changes, also those while its watch had expired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.core.model import Side
from ratchet.dev.api import EmbeddedApi
from ratchet.dev.testbed import wait_for
from ratchet.store.apiserver import connect
from ratchet.store.codec.links import encode_link
from ratchet.store.store import ApiStore
from tests.support.event_streams import EventStreams
from tests.support.faults import Faults, Rule, answering
from tests.support.links import joined, own
from tests.support.record_history import History

LOOPBACK = "127.0.0.1"


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def streams() -> EventStreams:
    return EventStreams()


@pytest.fixture
def server(faults: Faults, streams: EventStreams) -> Iterator[EmbeddedApi]:
    with EmbeddedApi(middlewares=(streams.middleware, faults.middleware)) as running:
        yield running


def test_changes_while_the_watch_expires_are_in_the_history(
    server: EmbeddedApi, faults: Faults, streams: EventStreams, tmp_path: Path
) -> None:
    api = connect(str(server.write_kubeconfig(tmp_path / "kubeconfig")))
    api.create("/api/v1/namespaces", {"metadata": {"name": "ratchet"}})
    path = ApiStore(api).links.path
    history = History(api, path, "")
    history.follow()
    try:
        deleted = api.create(path, encode_link(joined(own(Side.PRIMARY), None)))["metadata"]
        assert history.violations() == []
        assert list(history.records) == [deleted["name"]]

        closed = faults.add(Rule(lambda sent: sent.watches, before=answering(500, "InternalError"), times=1 << 30))
        streams.cut(LOOPBACK)
        wait_for("a watch that is rejected", lambda: closed.taken > 0)
        api.delete(f"{path}/{deleted['name']}", uid=deleted["uid"])
        server.storage.compact()
        faults.clear()
        assert history.violations() == []
        assert history.records == {}
    finally:
        history.close()
        api.close()
