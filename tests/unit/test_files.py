"""Atomic writes: a file, folder or symlink is replaced completely or not at all, without leftovers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ratchet.node.files import replacing, write_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_replaces_the_file_and_open_readers_keep_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    first = write_file(path, b"one")
    with path.open("rb") as reader:
        second = write_file(path, b"two", 0o755, sync=True)
        assert reader.read() == b"one"
    assert path.read_bytes() == b"two"
    assert first.st_ino != second.st_ino == path.stat().st_ino
    assert (first.st_mode & 0o777, second.st_mode & 0o777) == (0o600, 0o755)
    assert names(tmp_path) == ["file"]


def test_an_exclusive_write_keeps_an_existing_file(tmp_path: Path) -> None:
    write_file(tmp_path / "file", b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"two", exclusive=True)
    assert (tmp_path / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_failed_write_keeps_the_existing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "file", b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "file", b"two", sync=True)
    assert (tmp_path / "file").read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_partial_folder_is_removed_on_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "folder") as partial:
        (partial / "below").mkdir(parents=True)
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_symlink_is_replaced_and_its_target_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    with replacing(tmp_path / "link") as partial:
        partial.symlink_to("b")
    assert (tmp_path / "link").readlink() == Path("b")
    with pytest.raises(OSError, match="stop"), replacing(tmp_path / "link") as partial:
        partial.symlink_to("a")
        raise OSError("stop")
    assert names(tmp_path) == ["a", "link"]
