"""The replay of spooled DELs: served once, retried after a failure, set aside if they cannot succeed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.agent.frame import Reply, Request, encode_request
from ratchet.agent.spool import UNREADABLE, Spool
from ratchet.agent.spool_replay import FIRST_PAUSE, SpoolReplayer

DEL = Request({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}, b"{}", 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    return folder


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def replay_once(folder: Path, serve: Callable[[Request], Reply]) -> None:
    SpoolReplayer(Spool(folder), serve).replay()


def test_a_spooled_del_is_served_and_removed(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).write_bytes(encode_request(DEL))
    served: list[Request] = []

    def serve(request: Request) -> Reply:
        served.append(request)
        return Reply(0, b"")

    replay_once(folder, serve)
    assert served == [DEL, DEL]
    assert files_in(folder) == []


def test_a_failed_del_stays_for_the_next_replay(folder: Path) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    replay_once(folder, lambda _: Reply(1, b'{"code": 11}'))
    assert files_in(folder) == ["one"]
    replay_once(folder, lambda _: Reply(0, b""))
    assert files_in(folder) == []


def test_an_invalid_file_is_set_aside_and_does_not_block_other_files(folder: Path) -> None:
    (folder / "bad").write_bytes(b"not a frame")
    (folder / "good").write_bytes(encode_request(DEL))
    replay_once(folder, lambda _: Reply(0, b""))
    assert files_in(folder) == []
    assert files_in(folder / UNREADABLE) == ["bad"]


def test_a_spool_that_others_may_write_to_is_logged_and_not_served(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    folder.chmod(0o777)
    replay_once(folder, lambda _: pytest.fail("it was served"))
    assert "others may write there" in caplog.text
    assert files_in(folder) == ["one"]


def test_a_missing_spool_is_not_created(tmp_path: Path) -> None:
    replay_once(tmp_path / "none", lambda _: pytest.fail("it was served"))
    assert list(tmp_path.iterdir()) == []


def test_a_del_that_keeps_failing_is_retried_with_backoff(folder: Path) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    now, tries = 0.0, list[float]()

    def serve(_: Request) -> Reply:
        tries.append(now)
        return Reply(1, b'{"code": 103}')

    replayer = SpoolReplayer(Spool(folder), serve, lambda: now)
    while now < 16:
        replayer.replay()
        now += FIRST_PAUSE / 2
    assert tries == [0.0, 2.0, 6.0, 14.0]
    assert files_in(folder) == ["one"]


def test_a_del_with_an_invalid_configuration_is_set_aside(folder: Path) -> None:
    """A retry would fail too, and the room in the spool is limited."""
    (folder / "one").write_bytes(encode_request(DEL))
    replay_once(folder, lambda _: Reply(1, b'{"code": 7, "msg": "cannot read the network configuration"}'))
    assert files_in(folder) == []
    assert files_in(folder / UNREADABLE) == ["one"]


def test_start_returns_while_a_del_hangs(folder: Path) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    stopping, released = threading.Event(), threading.Event()

    def serve(_: Request) -> Reply:
        released.wait(60)
        return Reply(0, b"")

    SpoolReplayer(Spool(folder), serve).start(stopping, 0.05)  # returns after 0.05 s
    assert files_in(folder) == ["one"]
    stopping.set()
    released.set()
