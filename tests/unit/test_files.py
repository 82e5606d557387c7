"""Atomic writes: a file, folder or symlink is in place whole or not at all, and nothing temporary is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ratchet.node.files import replacing, write_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_by_another_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first = write_file(path, b"one")
    with path.open("rb") as reader:
        second = write_file(path, b"two", 0o755, sync=True)
        assert reader.read() == b"one"
    assert path.read_bytes() == b"two"
    assert first.st_ino != second.st_ino == path.stat().st_ino
    assert (first.st_mode & 0o777, second.st_mode & 0o777) == (0o600, 0o755)
    assert names(tmp_path) == ["file"]


def test_an_exclusive_write_leaves_the_file_that_there_is(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"two", exclusive=True)
    assert (tmp_path / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "file", b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "file", b"two", sync=True)
    assert (tmp_path / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_fails_halfway_is_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "folder") as partial:
        (partial / "below").mkdir(parents=True)
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_symlink_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    with replacing(tmp_path / "link") as partial:
        partial.symlink_to("b")
    assert (tmp_path / "link").readlink() == Path("b")
    with pytest.raises(OSError, match="stop"), replacing(tmp_path / "link") as partial:
        partial.symlink_to("a")
        raise OSError("stop")
    assert names(tmp_path) == ["a", "link"]
