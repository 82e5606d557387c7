"""Ratchet's network configuration follows the network that it wraps, and stays if that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG, NoNetworkError
from ratchet.install.follow import CONFIRMATIONS, NetworkFollower
from ratchet.install.loop import INTERVAL_SECONDS, WAITING_SECONDS, InstallLoop

FLANNEL = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "flannel"}]}
CALICO = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "plugins": [{"type": "calico"}]}
DELEGATING = {"name": "lab", "plugins": [{"type": "ratchet", "delegate": {"type": "flannel"}}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "net.d"
    folder.mkdir()
    put(folder, "10-flannel.conflist", FLANNEL)
    return folder


@pytest.fixture
def follower(folder: Path) -> NetworkFollower:
    made = NetworkFollower(folder, None)
    made.reconcile()
    assert own_types(folder) == ["flannel", "ratchet"]
    return made


def put(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def own_types(folder: Path) -> list[str] | None:
    path = folder / CONFIG
    return [plugin["type"] for plugin in json.loads(path.read_text())["plugins"]] if path.exists() else None


def reconcile_without_source(follower: NetworkFollower, passes: int = 1) -> None:
    for _ in range(passes):
        with pytest.raises(NoNetworkError):
            follower.reconcile()


def reconcile_in_vain(follower: NetworkFollower, error: str) -> None:
    for _ in range(CONFIRMATIONS + 1):
        with pytest.raises(RatchetError, match=error):
            follower.reconcile()


def test_the_copy_is_removed_when_its_source_is_gone(
    follower: NetworkFollower, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "10-flannel.conflist").unlink()
    reconcile_without_source(follower, CONFIRMATIONS - 1)
    assert own_types(folder) == ["flannel", "ratchet"]
    reconcile_without_source(follower)
    assert own_types(folder) is None
    assert caplog.messages == [
        f"network configuration removed path={folder / CONFIG} reason=its source is gone",
    ]


def test_the_copy_of_an_earlier_installer_is_removed_too(follower: NetworkFollower, folder: Path) -> None:
    (folder / "10-flannel.conflist").unlink()
    reconcile_without_source(NetworkFollower(folder, None), CONFIRMATIONS)
    assert own_types(folder) is None


def test_ratchet_is_chained_again_when_a_network_comes_back(follower: NetworkFollower, folder: Path) -> None:
    (folder / "10-flannel.conflist").unlink()
    reconcile_without_source(follower, CONFIRMATIONS)
    put(folder, "20-calico.conflist", CALICO)
    follower.reconcile()
    assert own_types(folder) == ["calico", "ratchet"]


def test_the_copy_follows_the_network_that_is_first_by_name(follower: NetworkFollower, folder: Path) -> None:
    put(folder, "20-calico.conflist", CALICO)
    follower.reconcile()
    assert own_types(folder) == ["flannel", "ratchet"]
    (folder / "10-flannel.conflist").unlink()
    for _ in range(CONFIRMATIONS):
        assert own_types(folder) == ["flannel", "ratchet"]
        follower.reconcile()
    assert own_types(folder) == ["calico", "ratchet"]
    put(folder, "05-flannel.conflist", FLANNEL)
    follower.reconcile()
    assert own_types(folder) == ["flannel", "ratchet"]


def test_a_folder_with_the_name_of_a_network_is_skipped(follower: NetworkFollower, folder: Path) -> None:
    (folder / "05-backup.conf").mkdir()
    put(folder, "10-flannel.conflist", CALICO)
    follower.reconcile()
    assert own_types(folder) == ["calico", "ratchet"]


def test_a_source_that_is_rewritten_in_place_is_followed_once_it_is_whole(
    follower: NetworkFollower, folder: Path
) -> None:
    whole = json.dumps({**FLANNEL, "plugins": [{"type": "flannel"}, {"type": "portmap"}]})
    for end in range(len(whole)):
        (folder / "10-flannel.conflist").write_text(whole[:end])
        with pytest.raises(RatchetError, match=r"cannot read .*/10-flannel.conflist: "):
            follower.reconcile()
        assert own_types(folder) == ["flannel", "ratchet"]
    (folder / "10-flannel.conflist").write_text(whole)
    follower.reconcile()
    assert own_types(folder) == ["flannel", "portmap", "ratchet"]


def test_a_source_that_is_missing_between_two_passes_only_keeps_its_copy(
    follower: NetworkFollower, folder: Path
) -> None:
    for _ in range(CONFIRMATIONS):
        (folder / "10-flannel.conflist").unlink()
        reconcile_without_source(follower, CONFIRMATIONS - 1)
        put(folder, "10-flannel.conflist", FLANNEL)
        follower.reconcile()
        assert own_types(folder) == ["flannel", "ratchet"]


def test_a_later_network_is_not_used_while_the_source_is_replaced(follower: NetworkFollower, folder: Path) -> None:
    """Podman, for example, has a network of its own in this folder."""
    put(folder, "87-podman-bridge.conflist", {"name": "podman", "plugins": [{"type": "bridge"}]})
    for _ in range(CONFIRMATIONS):
        (folder / "10-flannel.conflist").unlink()
        for _ in range(CONFIRMATIONS - 1):
            follower.reconcile()
        put(folder, "10-flannel.conflist", FLANNEL)
        follower.reconcile()
        assert own_types(folder) == ["flannel", "ratchet"]


def test_each_change_is_logged_with_its_source(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    follower = NetworkFollower(folder, None)
    with caplog.at_level("INFO"):
        for content in (FLANNEL, FLANNEL, CALICO):
            put(folder, "10-flannel.conflist", content)
            follower.reconcile()
    line = f"network configured path={folder / CONFIG} source={folder / '10-flannel.conflist'}"
    assert caplog.messages == [line, line]


# Unknown is not absent


@pytest.fixture(params=[errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def unreadable(request: pytest.FixtureRequest, folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """The folder cannot be listed."""
    listed = Path.iterdir

    def fail(path: Path) -> Iterator[Path]:
        if path == folder:
            raise OSError(request.param, os.strerror(request.param), str(path))
        return listed(path)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "iterdir", fail)
        yield patched


def test_the_copy_stays_while_the_folder_cannot_be_read(
    follower: NetworkFollower, folder: Path, unreadable: pytest.MonkeyPatch
) -> None:
    (folder / "10-flannel.conflist").unlink()
    reconcile_in_vain(follower, f"cannot read {folder}: ")
    assert own_types(folder) == ["flannel", "ratchet"]
    unreadable.undo()
    reconcile_without_source(follower, CONFIRMATIONS)
    assert own_types(folder) is None


def test_the_copy_stays_while_any_file_cannot_be_read(follower: NetworkFollower, folder: Path) -> None:
    (folder / "10-flannel.conflist").unlink()
    reconcile_without_source(follower, CONFIRMATIONS - 1)
    for content in ("", "{", "[" * 100_000, "\ud800"):
        (folder / "20-calico.conflist").write_bytes(content.encode(errors="surrogatepass"))
        reconcile_in_vain(follower, "cannot read .*/20-calico.conflist: ")
        assert own_types(folder) == ["flannel", "ratchet"]
    (folder / "20-calico.conflist").unlink()
    (folder / "20-calico.conflist").symlink_to(folder / "none")
    reconcile_in_vain(follower, "cannot read .*/20-calico.conflist: No such file")
    (folder / "20-calico.conflist").unlink()
    reconcile_without_source(follower, CONFIRMATIONS - 1)
    assert own_types(folder) == ["flannel", "ratchet"]


def test_a_given_network_that_cannot_be_read_keeps_the_configuration(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "network.conf"
    put(tmp_path, "network.conf", DELEGATING)
    follower = NetworkFollower(folder, given)
    follower.reconcile()
    given.unlink()
    reconcile_in_vain(follower, f"cannot read {given}: No such file")
    given.write_text('{"name": ')
    reconcile_in_vain(follower, f"cannot read {given}: ")
    assert own_types(folder) == ["ratchet"]


# Files at Ratchet's name that are no copy


def test_a_delegating_configuration_is_not_removed(follower: NetworkFollower, folder: Path) -> None:
    (folder / "10-flannel.conflist").unlink()
    put(folder, CONFIG, DELEGATING)
    reconcile_without_source(follower, CONFIRMATIONS + 1)
    assert own_types(folder) == ["ratchet"]


@pytest.mark.parametrize("content", ["", '{"plugins": [', "{}", "null", '{"plugins": 1}'])
def test_a_file_without_valid_content_is_reported_while_there_is_no_network(
    follower: NetworkFollower, folder: Path, content: str
) -> None:
    (folder / "10-flannel.conflist").unlink()
    (folder / CONFIG).write_text(content)
    reconcile_without_source(follower, CONFIRMATIONS - 1)
    with pytest.raises(RatchetError, match=f"cannot read {folder / CONFIG}: ") as reported:
        follower.reconcile()
    assert "delete it" in reported.value.details
    assert (folder / CONFIG).read_text() == content


@pytest.mark.parametrize("content", ["", '{"plugins": [', "{}", '{"plugins": [{"type": "ratchet", "wait": 5}]}'])
def test_a_file_that_was_edited_by_hand_is_written_again(follower: NetworkFollower, folder: Path, content: str) -> None:
    (folder / CONFIG).write_text(content)
    follower.reconcile()
    assert own_types(folder) == ["flannel", "ratchet"]


def test_a_folder_at_ratchets_name_is_an_error(folder: Path) -> None:
    (folder / CONFIG).mkdir()
    with pytest.raises(RatchetError, match=f"cannot read {folder / CONFIG}: Is a directory"):
        NetworkFollower(folder, None).reconcile()


# In the install loop


def test_the_loop_follows_while_the_agent_is_down(tmp_path: Path, folder: Path) -> None:
    """A configuration that is in use follows, also if the agent does not serve. A new one is not written."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ratchet").touch()
    socket = tmp_path / "agent.sock"
    loop = InstallLoop(tmp_path / "bin", folder, socket)
    socket.touch()
    loop.reconcile()
    socket.unlink()
    put(folder, "10-flannel.conflist", CALICO)
    loop.reconcile()
    assert own_types(folder) == ["calico", "ratchet"]
    (folder / "10-flannel.conflist").unlink()
    for _ in range(CONFIRMATIONS):
        with pytest.raises(NoNetworkError):
            loop.reconcile()
    assert own_types(folder) is None
    put(folder, "10-flannel.conflist", FLANNEL)
    loop.reconcile()
    assert own_types(folder) is None


class Passes(threading.Event):
    """Stops a loop after a number of passes, and notes the pauses between them."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.left = passes
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        return len(self.pauses) == self.left


def test_the_loop_checks_more_often_while_the_node_has_no_network(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "agent.sock").touch()
    loop = InstallLoop(tmp_path / "bin", folder, tmp_path / "agent.sock")
    with closing(loop):
        (folder / "10-flannel.conflist").unlink()
        loop.run(gone := Passes(CONFIRMATIONS + 2))
        put(folder, "10-flannel.conflist", FLANNEL)
        loop.run(back := Passes(2))
    assert gone.pauses == [INTERVAL_SECONDS] * (CONFIRMATIONS - 1) + [WAITING_SECONDS] * 3
    assert back.pauses == [INTERVAL_SECONDS] * 2
    assert own_types(folder) == ["flannel", "ratchet"]
