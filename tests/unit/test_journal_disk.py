"""The journal on a disk that is full or read-only: what is deferred, and what is written once the disk works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.cni.delegation import Delegation
from ratchet.core.pod import PodRef
from ratchet.errors import RatchetError, TryAgainError
from ratchet.node.boot import since_boot
from ratchet.node.journal import Attachment, Journal, SandboxEntry
from tests.support.disks import BrokenDisk, small_disk
from tests.support.namespaces import may_make_namespaces

pytestmark = pytest.mark.skipif(not may_make_namespaces(), reason="needs root, to mount a file system")

ONE, TWO = Attachment("net", "c1", "eth0"), Attachment("net", "c2", "eth0")


def entry(attachment: Attachment = ONE, netns: str = "/run/netns/a") -> SandboxEntry:
    delegation = Delegation({"type": "bridge", "name": "net", "cniVersion": "1.0.0"}, {"cniVersion": "1.0.0"})
    return SandboxEntry(attachment, netns, PodRef("default", "a", "uid"), delegations=(delegation,))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "state") as folder:
        yield folder


@pytest.fixture(params=["full", "read-only"])
def disk(root: Path, request: pytest.FixtureRequest) -> BrokenDisk:
    return BrokenDisk(root, request.param)


@pytest.fixture
def agent(root: Path) -> Journal:
    """The journal of an agent, with both folders and the lock file on the disk."""
    made = Journal(root, remembers=True)
    made.write(entry(TWO))
    made.bury(Attachment("net", "c9", "eth0"), since_boot())
    with made.lock("link"):
        pass
    return made


def stored(root: Path) -> list[SandboxEntry]:
    """The entries as another process reads them."""
    return Journal(root).entries()


def test_a_write_that_may_not_be_deferred_fails_and_changes_nothing(
    agent: Journal, disk: BrokenDisk, root: Path
) -> None:
    disk.break_down()
    with pytest.raises(RatchetError, match=disk.cause):
        agent.begin(entry())
    with pytest.raises(RatchetError, match=disk.cause):
        agent.write(entry(TWO, "/run/netns/b"))
    assert agent.read(ONE) is None
    assert agent.entries() == stored(root) == [entry(TWO)]
    assert agent.deferred == 0


def test_a_deferred_entry_counts_as_written_and_is_written_later(agent: Journal, disk: BrokenDisk, root: Path) -> None:
    disk.break_down()
    assert agent.begin(entry(), may_defer=True)
    assert not agent.begin(entry(), may_defer=True)
    agent.write(entry(ONE, "/run/netns/b"), may_defer=True)
    agent.flush()
    agent.reload()
    assert agent.read(ONE) == entry(ONE, "/run/netns/b")
    assert agent.to_delete(Attachment("renamed", "c1", "eth0")) == [entry(ONE, "/run/netns/b")]
    assert len(agent.entries()) == 2
    assert stored(root) == [entry(TWO)]
    assert agent.deferred == 1
    disk.repair()
    agent.flush()
    assert agent.deferred == 0
    assert stored(root) == [entry(ONE, "/run/netns/b"), entry(TWO)]


def test_the_journal_of_a_plugin_defers_changes_within_its_process(disk: BrokenDisk, root: Path) -> None:
    plugin = Journal(root)
    disk.break_down()
    assert plugin.begin(entry(), may_defer=True)
    assert not plugin.begin(entry(), may_defer=True)
    assert plugin.read(ONE) == entry()
    assert plugin.of_container("c1") == [entry()]
    plugin.forget(ONE)
    assert plugin.read(ONE) is None
    assert stored(root) == []


def test_an_entry_that_was_deferred_and_forgotten_is_not_written(agent: Journal, disk: BrokenDisk, root: Path) -> None:
    disk.break_down()
    agent.begin(entry(), may_defer=True)
    agent.forget(ONE)
    assert agent.deferred == 0
    disk.repair()
    agent.flush()
    assert stored(root) == [entry(TWO)]


def test_a_deferred_removal_counts_as_removed_and_is_done_later(agent: Journal, root: Path) -> None:
    disk = BrokenDisk(root, "read-only")  # a full disk accepts removals
    disk.break_down()
    agent.forget(TWO)
    agent.reload()
    assert agent.read(TWO) is None
    assert agent.entries() == []
    assert agent.deferred == 1
    assert stored(root) == [entry(TWO)]
    disk.repair()
    agent.flush()
    assert agent.deferred == 0
    assert stored(root) == []


def test_a_deferred_removal_spares_an_entry_that_another_process_writes_later(agent: Journal, root: Path) -> None:
    disk = BrokenDisk(root, "read-only")
    disk.break_down()
    agent.forget(TWO)
    disk.repair()
    newer = entry(TWO, "/run/netns/b")
    Journal(root).write(newer)
    agent.flush()
    agent.reload()
    assert agent.entries() == stored(root) == [newer]


@pytest.mark.parametrize("repaired", [False, True])
def test_an_add_after_a_deferred_removal_begins(agent: Journal, root: Path, repaired: bool) -> None:
    disk = BrokenDisk(root, "read-only")
    disk.break_down()
    agent.forget(TWO)
    if repaired:
        disk.repair()
    newer = entry(TWO, "/run/netns/b")
    assert agent.begin(newer, may_defer=True)
    assert agent.entries() == [newer]
    if not repaired:
        disk.repair()
    agent.flush()
    assert stored(root) == [newer]


def test_an_agent_keeps_tombstones_and_writes_them_later(agent: Journal, disk: BrokenDisk, root: Path) -> None:
    began = since_boot()
    disk.break_down()
    assert agent.bury(ONE, since_boot()) is False
    assert agent.bury(ONE, since_boot()) is True
    assert agent.is_buried(ONE, began)
    assert not Journal(root).is_buried(ONE, began)
    assert agent.deferred == 1
    disk.repair()
    agent.flush()
    assert agent.deferred == 0
    assert Journal(root).is_buried(ONE, began)


@pytest.mark.usefixtures("agent")
def test_a_link_can_be_locked_on_a_broken_disk(disk: BrokenDisk, root: Path) -> None:
    """The calls of one process exclude each other."""
    disk.break_down()
    impatient = Journal(root, lock_seconds=0.05)
    with (
        impatient.lock("link"),
        impatient.lock("other"),
        pytest.raises(TryAgainError, match="another call holds it"),
        impatient.lock("link"),
    ):
        pass
    with impatient.lock("link"):
        pass


def test_a_lock_on_a_read_only_disk_waits_for_a_writer_from_before(agent: Journal, root: Path) -> None:
    """The holder is another process, which opened the file before the disk became read-only."""
    code = (
        "import sys; from ratchet.node.journal import Journal\n"
        "with Journal(sys.argv[1]).lock('link'): print('held', flush=True); sys.stdin.read()"
    )
    bound = root.parent / "read-only"
    bound.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        subprocess.run(["mount", "--bind", str(root), str(bound)], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(bound)], check=True)
            reader = Journal(bound, lock_seconds=0.05)
            with pytest.raises(TryAgainError, match="another call holds it"), reader.lock("link"):
                pass
            holder.stdin.close()
            holder.wait()
            with reader.lock("link"):
                pass
        finally:
            subprocess.run(["umount", str(bound)], check=True)


def test_the_changes_of_one_entry_end_in_the_last_one(agent: Journal, disk: BrokenDisk, root: Path) -> None:
    """The disk breaks and works in turns while an entry changes."""
    for number in range(6):
        (disk.break_down if number % 2 == 0 else disk.repair)()
        agent.write(replace(entry(), netns=f"/run/netns/{number}"), may_defer=True)
        agent.flush()
    assert agent.deferred == 0
    found = [one.netns for one in stored(root) if one.attachment == ONE]
    assert found == ["/run/netns/5"]
