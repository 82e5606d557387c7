"""Installers of one node: they take turns, and only one at a time keeps the node's files."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli.main import main
from ratchet.errors import RatchetError
from ratchet.install import CONFIG, LAUNCHER, install, uninstall
from ratchet.install.bundle import BUNDLES
from ratchet.install.compiled import find_compiled
from ratchet.install.deployment import DeploymentWatch, Seen
from ratchet.install.lock import FolderLock, locked
from ratchet.install.loop import InstallLoop
from ratchet.store.api_errors import NotFoundError

NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
DELEGATING = {"name": "lab", "plugins": [{"type": "ratchet", "delegate": {"type": "bridge"}}]}
HOLDER = """
import sys
from pathlib import Path
from ratchet.install.lock import FolderLock

assert FolderLock(Path(sys.argv[1])).try_acquire()
print("held", flush=True)
sys.stdin.read()
"""


class Gone:
    """A fake API without any object."""

    def get(self, path: str) -> dict[str, Any]:
        raise NotFoundError(f"cannot GET {path}: not found")


def uninstall_by(loop: InstallLoop) -> None:
    """End the installer's pod after its DaemonSet was deleted."""
    deployment = DeploymentWatch(Gone(), "ratchet/ratchet-install")  # type: ignore[arg-type]
    deployment.seen = Seen(existed=True)
    loop.uninstall_if_deleted(deployment, lambda _: None)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[FolderLock]:
    made = FolderLock(tmp_path / "bin")
    yield made
    made.release()


def test_a_lock_is_exclusive_and_leaves_no_file(lock: FolderLock, tmp_path: Path) -> None:
    other = FolderLock(tmp_path / "bin")
    assert lock.try_acquire()
    assert lock.try_acquire()
    assert not other.try_acquire()
    lock.release()
    lock.release()
    assert other.try_acquire()
    other.release()
    assert list((tmp_path / "bin").iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(lock: FolderLock, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "bin")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not lock.try_acquire()
        holder.kill()
    assert lock.try_acquire()


def test_a_folder_that_was_replaced_is_locked_again(lock: FolderLock, tmp_path: Path) -> None:
    assert lock.try_acquire()
    (tmp_path / "bin").rmdir()
    other = FolderLock(tmp_path / "bin")
    assert other.try_acquire()
    assert not lock.try_acquire()
    other.release()
    assert lock.try_acquire()


def test_a_folder_that_cannot_be_made_or_locked_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RatchetError, match=f"cannot write {tmp_path / 'file'}: File exists"):
        FolderLock(tmp_path / "file").try_acquire()
    with pytest.raises(RatchetError, match=f"cannot write {tmp_path / 'file' / 'bin'}: Not a directory"):
        FolderLock(tmp_path / "file" / "bin").try_acquire()


# Install and uninstall


def test_install_and_uninstall_wait_for_another_installer(
    lock: FolderLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lock.try_acquire()
    refused = threading.Event()
    acquire = FolderLock.try_acquire

    def try_acquire(one: FolderLock) -> bool:
        acquired = acquire(one)
        if not acquired:
            refused.set()
        return acquired

    monkeypatch.setattr(FolderLock, "try_acquire", try_acquire)
    for action, before, after in ((install, False, True), (uninstall, True, False)):
        thread = threading.Thread(target=action, args=(tmp_path / "bin",))
        thread.start()
        assert refused.wait(60.0)
        assert (tmp_path / "bin" / LAUNCHER).exists() is before
        lock.release()
        thread.join()
        assert (tmp_path / "bin" / LAUNCHER).exists() is after
        assert acquire(lock)
        refused.clear()


def test_waiting_for_another_installer_ends_with_an_error(lock: FolderLock, tmp_path: Path) -> None:
    assert lock.try_acquire()
    with (
        pytest.raises(RatchetError, match=f"cannot change {tmp_path / 'bin'}: another installer"),
        locked(tmp_path / "bin", 0.0),
    ):
        pytest.fail("the block ran without the lock")


@pytest.mark.thorough
def test_two_installers_at_once_make_one_bundle(tmp_path: Path) -> None:
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    command = [sys.executable, "-m", "ratchet.cli.main", "install", "--relocatable", "--bin-dir", str(tmp_path / "bin")]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(one.communicate()[1], one.returncode) for one in both] == [(b"", 0), (b"", 0)]
    (bundle,) = (tmp_path / "bin" / BUNDLES).iterdir()
    assert (tmp_path / "bin" / LAUNCHER).resolve().parent == bundle.resolve()


# Two install loops, such as those of an old and a new pod


@pytest.fixture
def loops(tmp_path: Path) -> Iterator[tuple[InstallLoop, InstallLoop]]:
    """An old installer that chains Ratchet, and a new one that delegates."""
    folder, socket, given = tmp_path / "net.d", tmp_path / "agent.sock", tmp_path / "given.conf"
    folder.mkdir()
    socket.touch()
    (folder / "10-pods.conflist").write_text(json.dumps(NETWORK))
    given.write_text(json.dumps(DELEGATING))
    made = InstallLoop(tmp_path / "bin", folder, socket), InstallLoop(tmp_path / "bin", folder, socket, given)
    yield made
    for one in made:
        one.close()


def run_once(loop: InstallLoop) -> None:
    stopping = threading.Event()
    stopping.set()
    loop.run(stopping)


def own(tmp_path: Path) -> Any:
    path = tmp_path / "net.d" / CONFIG
    return json.loads(path.read_text()) if path.exists() else None


CHAINED = {**NETWORK, "plugins": [{"type": "bridge"}, {"type": "ratchet"}]}


def test_the_new_installer_takes_over_when_the_old_one_ends(
    loops: tuple[InstallLoop, InstallLoop], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = loops
    for _ in range(3):
        run_once(old)
        run_once(new)
        assert own(tmp_path) == CHAINED
    assert f"cannot keep {tmp_path / 'net.d'}: another installer is at work (it ends with its pod" in caplog.text
    old.close()
    run_once(new)
    assert own(tmp_path) == DELEGATING


def test_an_installer_that_does_not_keep_the_node_does_not_uninstall(
    loops: tuple[InstallLoop, InstallLoop], tmp_path: Path
) -> None:
    old, new = loops
    run_once(new)
    with pytest.raises(RatchetError, match="another installer is at work"):
        uninstall_by(old)
    assert own(tmp_path) == DELEGATING
    assert (tmp_path / "bin" / LAUNCHER).exists()
    uninstall_by(new)
    assert own(tmp_path) is None
    assert not (tmp_path / "bin" / LAUNCHER).exists()


def test_an_init_container_installs_while_another_installer_keeps_the_node(
    loops: tuple[InstallLoop, InstallLoop], tmp_path: Path
) -> None:
    """The agent's pod has an init container that updates the plugin."""
    old, _ = loops
    run_once(old)
    before = (tmp_path / "bin" / LAUNCHER).stat().st_ino
    install(tmp_path / "bin", agent=True, fallback=False)
    assert (tmp_path / "bin" / LAUNCHER).stat().st_ino != before
    after = (tmp_path / "bin" / LAUNCHER).stat().st_ino
    run_once(old)
    assert (tmp_path / "bin" / LAUNCHER).stat().st_ino == after


def test_the_command_uninstall_is_refused_while_an_installer_keeps_the_node(
    loops: tuple[InstallLoop, InstallLoop], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, _ = loops
    run_once(old)
    command = ["uninstall", "--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d")]
    assert main(command) == 1
    assert f"cannot uninstall from {tmp_path / 'net.d'}: an installer is at work" in capsys.readouterr().err
    assert own(tmp_path) == CHAINED
    old.close()
    assert main(command) == 0
    assert own(tmp_path) is None
    assert main(command) == 0
    assert main([*command[:-1], str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none").exists()
