"""The DELs that were kept: done once, kept while they fail, set aside where they are none."""

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


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def drain(folder: Path, serve: Callable[[Request], Reply]) -> None:
    SpoolReplayer(Spool(folder), serve).replay()


def test_what_was_kept_is_served_and_gone(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).write_bytes(encode_request(DEL))
    served: list[Request] = []

    def serve(request: Request) -> Reply:
        served.append(request)
        return Reply(0, b"")

    drain(folder, serve)
    assert served == [DEL, DEL]
    assert kept(folder) == []


def test_what_fails_stays_for_the_next_time(folder: Path) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    drain(folder, lambda _: Reply(1, b'{"code": 11}'))
    assert kept(folder) == ["one"]
    drain(folder, lambda _: Reply(0, b""))
    assert kept(folder) == []


def test_what_is_no_request_is_set_aside_and_keeps_nothing_else_from_being_served(folder: Path) -> None:
    (folder / "bad").write_bytes(b"not a frame")
    (folder / "good").write_bytes(encode_request(DEL))
    drain(folder, lambda _: Reply(0, b""))
    assert kept(folder) == []
    assert kept(folder / UNREADABLE) == ["bad"]


def test_a_spool_that_others_may_write_in_is_not_served_and_nothing_is_raised(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    folder.chmod(0o777)
    drain(folder, lambda _: pytest.fail("it was served"))
    assert "others may write there" in caplog.text
    assert kept(folder) == ["one"]


def test_where_there_is_no_spool_there_is_nothing_to_do(tmp_path: Path) -> None:
    drain(tmp_path / "none", lambda _: pytest.fail("it was served"))
    assert list(tmp_path.iterdir()) == []


def test_what_goes_on_failing_is_tried_ever_less_often(folder: Path) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    now, tries = 0.0, list[float]()

    def serve(_: Request) -> Reply:
        tries.append(now)
        return Reply(1, b'{"code": 103}')

    drainer = SpoolReplayer(Spool(folder), serve, lambda: now)
    while now < 16:
        drainer.replay()
        now += FIRST_PAUSE / 2
    assert tries == [0.0, 2.0, 6.0, 14.0]
    assert kept(folder) == ["one"]


def test_what_never_can_be_served_is_set_aside(folder: Path) -> None:
    """A configuration that is wrong does not become right, and the spool has room for so many."""
    (folder / "one").write_bytes(encode_request(DEL))
    drain(folder, lambda _: Reply(1, b'{"code": 7, "msg": "cannot read the network configuration"}'))
    assert kept(folder) == []
    assert kept(folder / UNREADABLE) == ["one"]


def test_a_del_that_hangs_keeps_nobody_from_being_served(folder: Path) -> None:
    (folder / "one").write_bytes(encode_request(DEL))
    stopping, over = threading.Event(), threading.Event()

    def serve(_: Request) -> Reply:
        over.wait(60)
        return Reply(0, b"")

    SpoolReplayer(Spool(folder), serve).start(stopping, 0.05)  # returns
    assert kept(folder) == ["one"]
    stopping.set()
    over.set()
