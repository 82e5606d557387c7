"""The agent's view of the spool: oldest first, served files are removed, unreadable files are set aside."""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path

import pytest

from ratchet.agent.frame import FrameError, Request, encode_request
from ratchet.agent.spool import ASIDE_MAX, PARTIAL_SECONDS, UNREADABLE, Spool, spool_directories
from ratchet.errors import RatchetError


def del_request(container_id: str, stdin: bytes = b"{}") -> Request:
    return Request({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": container_id, "CNI_IFNAME": "eth0"}, stdin, 1.0)


def write_as_shim(folder: Path, request: Request, name: str, age: float = 0.0) -> Path:
    """Write a file as the shim does: under a partial name, then renamed. `age` is in seconds."""
    partial = folder / f".{name}"
    partial.write_bytes(encode_request(request))
    written = time.time() - age
    os.utime(partial, (written, written))
    return partial.rename(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "spool"
    made.mkdir(mode=0o700)
    return made


def test_waiting_and_sweep_do_not_create_the_directory(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool.waiting() == []
    spool.sweep()
    assert list(tmp_path.iterdir()) == []


def test_files_are_ordered_by_age_and_then_by_name(folder: Path) -> None:
    names = {"b": 10.0, "a": 10.0, "c": 20.0, "d": 0.0}
    now = time.time()
    for name, age in names.items():
        path = write_as_shim(folder, del_request(name), name)
        os.utime(path, (now - age, now - age))
    assert [path.name for path in Spool(folder).waiting()] == ["c", "a", "b", "d"]


def test_only_complete_regular_files_are_waiting(folder: Path) -> None:
    complete = write_as_shim(folder, del_request("c1"), "c1")
    (folder / ".c2").write_bytes(b"half")
    (folder / UNREADABLE).mkdir()
    (folder / "link").symlink_to(complete)
    assert Spool(str(folder)).waiting() == [complete]


def test_a_call_is_read_as_written_and_its_file_is_removed_when_done(folder: Path) -> None:
    path = write_as_shim(folder, del_request("c1"), "c1")
    spool = Spool(folder)
    assert spool.read(path) == del_request("c1")
    assert path.exists()
    spool.done(path)
    assert not path.exists()
    spool.done(path)


def test_a_file_that_was_replaced_since_it_was_read_is_not_removed(folder: Path) -> None:
    path = write_as_shim(folder, del_request("c1"), "c1", age=5.0)
    spool = Spool(folder)
    spool.read(path)
    write_as_shim(folder, del_request("c1"), "c1")
    spool.done(path)
    assert spool.waiting() == [path]
    spool.read(path)
    spool.done(path)
    assert spool.waiting() == []


WHOLE = encode_request(del_request("c1"))


@pytest.mark.parametrize("content", [b"", b"no frame", WHOLE[:-1], WHOLE + b"x"])
def test_a_file_without_a_valid_frame_is_set_aside(
    content: bytes, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "c1"
    path.write_bytes(content)
    spool = Spool(folder)
    with pytest.raises(FrameError, match="cannot read the frame: "):
        spool.read(path)
    with caplog.at_level(logging.WARNING, "ratchet.agent.spool"):
        spool.set_aside(path, "it is no frame")
    assert spool.waiting() == []
    aside = folder / UNREADABLE / "c1"
    assert aside.read_bytes() == content
    assert stat.S_IMODE(aside.parent.stat().st_mode) == 0o700
    assert caplog.messages == [f'spool file set aside file={aside} cause="it is no frame"']


def test_only_the_newest_files_that_were_set_aside_are_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(folder)
    for number in range(ASIDE_MAX + 2):
        spool.set_aside(write_as_shim(folder, del_request("c1"), f"c{number}", age=1000.0 - number), "it is a test")
    remaining = {path.name for path in (folder / UNREADABLE).iterdir()}
    assert remaining == {f"c{number}" for number in range(2, ASIDE_MAX + 2)}
    removed = [message for message in caplog.messages if message.startswith("spool file removed ")]
    assert removed == [
        f"spool file removed file={folder / UNREADABLE / name} newer_files={ASIDE_MAX}" for name in ("c0", "c1")
    ]


def test_sweep_removes_old_partial_files_and_keeps_recent_ones(folder: Path) -> None:
    complete = write_as_shim(folder, del_request("c1"), "c1", age=2 * PARTIAL_SECONDS)
    for name, age in ((".left", 2 * PARTIAL_SECONDS), (".written", 0.0)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    Spool(folder).sweep()
    assert {path.name for path in folder.iterdir()} == {complete.name, ".written"}


# Unsafe directories and errors


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777])
def test_a_directory_that_others_may_write_to_is_rejected(mode: int, folder: Path) -> None:
    write_as_shim(folder, del_request("c1"), "c1")
    folder.chmod(mode)
    with pytest.raises(RatchetError, match=f"cannot read {folder}: others may write there"):
        Spool(folder).waiting()


def test_a_symlink_or_a_file_in_place_of_the_directory_is_rejected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(RatchetError, match=f"cannot read {tmp_path / name}: it is not a directory"):
            Spool(tmp_path / name).waiting()


def test_errors_name_the_action_the_path_and_the_cause(folder: Path, tmp_path: Path) -> None:
    spool = Spool(folder)
    with pytest.raises(RatchetError, match=f"cannot read {folder / 'gone'}: No such file"):
        spool.read(folder / "gone")
    with pytest.raises(RatchetError, match=f"cannot set aside {folder / 'gone'}: No such file"):
        spool.set_aside(folder / "gone", "it is a test")
    (folder / "folder").mkdir()
    with pytest.raises(RatchetError, match=f"cannot remove {folder / 'folder'}: "):
        spool.done(folder / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(RatchetError, match=f"cannot read {tmp_path / 'file' / 'spool'}: Not a directory"):
        Spool(tmp_path / "file" / "spool").waiting()


def test_a_node_has_a_spool_on_disk_and_one_in_memory() -> None:
    assert spool_directories("/var/lib/cni/ratchet/spool", "/run/ratchet/agent.sock") == [
        "/var/lib/cni/ratchet/spool",
        "/run/ratchet/spool",
    ]
    assert spool_directories("/run/ratchet/spool", "/run/ratchet/agent.sock") == ["/run/ratchet/spool"]
