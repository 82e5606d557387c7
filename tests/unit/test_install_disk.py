"""Installs on disks that are full, read-only or damaged: clear errors, and nothing half made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.errors import RatchetError
from ratchet.install import LAUNCHER, install, uninstall
from ratchet.install.bundle import BUNDLES, PLUGIN
from ratchet.install.bundle import LAUNCHER as BUNDLED
from ratchet.install.compiled import find_compiled
from ratchet.install.loop import InstallLoop
from tests.support.namespaces import may_make_namespaces

# $0: the folder of the executables. $1: options of its file system. $2: Python. $3: options of the second install.
# Prints the exit statuses of two installs and of a call between them, and the files after each install.
SCRIPT = """
list() { (cd "$0" && find . -mindepth 1 | sort | tr '\\n' ' '; echo); }
mount -t tmpfs -o "size=64k" tmpfs "$0" || exit 9
"$2" -m ratchet.cli.main install --bin-dir "$0" || exit 8
list
mount -o "remount,$1" "$0" || exit 7
"$2" -m ratchet.cli.main install --bin-dir "$0" $3
echo $?
list
CNI_COMMAND=VERSION "$0/ratchet" < /dev/null > /dev/null
echo $?
"""


@pytest.mark.parametrize(
    ("mount", "options", "error"),
    [
        ("ro", "", "Read-only file system\n         make the folder writable, or use another folder"),
        ("size=64k", "--relocatable", "No space left on device\n         free space and inodes"),
    ],
    ids=["read-only", "full"],
)
def test_a_folder_that_cannot_be_written_keeps_the_installed_plugin(
    tmp_path: Path, mount: str, options: str, error: str
) -> None:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, for a file system of its own")
    if options and find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    (tmp_path / "bin").mkdir()
    command = ["unshare", "--mount", "sh", "-c", SCRIPT, str(tmp_path / "bin"), mount, sys.executable, options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, before, status, after, called = done.stdout.splitlines()
    assert (before, after) == ("./ratchet ", "./ratchet " + (f"./{BUNDLES} " if options else "")), done.stderr
    assert (status, called) == ("1", "0")
    assert done.stderr.startswith(f"ratchet: cannot write {tmp_path / 'bin'}/")
    assert error in done.stderr


def test_the_loop_writes_no_network_configuration_without_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-pods.conf").write_text('{"name": "pods", "type": "bridge"}')
    (tmp_path / "bin").touch()
    (tmp_path / "agent.sock").touch()
    loop = InstallLoop(tmp_path / "bin", tmp_path / "net.d", tmp_path / "agent.sock")
    with pytest.raises(RatchetError, match=f"cannot write {tmp_path / 'bin'}: File exists") as reported:
        loop.reconcile()
    assert "remove the file" in reported.value.details
    assert [path.name for path in (tmp_path / "net.d").iterdir()] == ["10-pods.conf"]
    (tmp_path / "bin").unlink()
    loop.reconcile()
    assert (tmp_path / "net.d" / "00-ratchet.conflist").exists()


@pytest.mark.parametrize("damage", ["empty", "not executable", "dead link", "a folder"])
def test_the_loop_replaces_a_damaged_executable(tmp_path: Path, damage: str) -> None:
    loop = InstallLoop(tmp_path / "bin", None, tmp_path / "agent.sock")
    loop.reconcile()
    path = tmp_path / "bin" / LAUNCHER
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "not executable":
        path.chmod(0o644)
    else:
        path.unlink()
        path.symlink_to("none") if damage == "dead link" else path.mkdir()
    if damage == "a folder":
        with pytest.raises(RatchetError, match=f"cannot write {path}: Is a directory") as reported:
            loop.reconcile()
        assert "remove the folder" in reported.value.details
        path.rmdir()
    loop.reconcile()
    assert path.is_file()
    assert os.access(path, os.X_OK)
    assert path.stat().st_size > 0


def test_the_loop_keeps_an_executable_of_another_version(tmp_path: Path) -> None:
    loop = InstallLoop(tmp_path / "bin", None, tmp_path / "agent.sock")
    loop.reconcile()
    (tmp_path / "bin" / LAUNCHER).write_text("#!/bin/sh\n")
    loop.reconcile()
    assert (tmp_path / "bin" / LAUNCHER).read_text() == "#!/bin/sh\n"


def test_what_a_killed_installer_left_is_removed(tmp_path: Path) -> None:
    """Names as in ratchet.node.files. Files of others stay."""
    folder = tmp_path / "bin"
    for action in (install, uninstall):
        (folder / ".12.0123abcd").mkdir(parents=True)
        (folder / ".12.0123abcd" / "file").touch()
        (folder / ".345.89abcdef").touch()
        for name in (".keep", ".12.0123abcd.txt", "12.0123abcd"):
            (folder / name).touch()
        action(folder)
        names = {path.name for path in folder.iterdir()} - {LAUNCHER}
        assert names == {".keep", ".12.0123abcd.txt", "12.0123abcd"}


def test_a_damaged_or_half_made_bundle_is_replaced(tmp_path: Path) -> None:
    """Power was lost: some files are empty, or another bundle was only half written."""
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    install(tmp_path, relocatable=True)
    (bundle,) = (tmp_path / BUNDLES).iterdir()
    whole = (bundle / PLUGIN).read_bytes()
    for damaged in (bundle / PLUGIN, bundle / "lib" / "ld.so"):
        damaged.write_bytes(b"")
        (tmp_path / BUNDLES / ".1.0a0b0c0d" / "lib").mkdir(parents=True)
        install(tmp_path, relocatable=True)
        assert list((tmp_path / BUNDLES).iterdir()) == [bundle]
        assert damaged.stat().st_size > 0
    assert (bundle / PLUGIN).read_bytes() == whole
    kept = bundle.stat().st_ino
    install(tmp_path, relocatable=True)
    assert bundle.stat().st_ino == kept


def test_a_bundle_is_on_the_disk_before_it_is_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    synced: list[tuple[bool, bool]] = []

    def sync(folder: Path) -> None:
        whole = (folder / PLUGIN).exists() and (folder / BUNDLED).exists()
        synced.append((whole, (tmp_path / LAUNCHER).is_symlink()))

    monkeypatch.setattr("ratchet.install.bundle._sync", sync)
    install(tmp_path, relocatable=True)
    assert synced == [(True, False)]
