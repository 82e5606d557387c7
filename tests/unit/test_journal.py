"""The journal on disk: atomic entries, tombstones, and locks that end with their holder."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet.cni.delegation import Delegation
from ratchet.core.model import End, Link, Side
from ratchet.core.pod import PodRef
from ratchet.core.sandbox import Location
from ratchet.errors import RatchetError, TryAgainError
from ratchet.node import journal as journal_module
from ratchet.node.entries import decode_entry, encode_entry
from ratchet.node.journal import (
    TOMBSTONE_SECONDS,
    Attachment,
    HeldEnd,
    Journal,
    SandboxEntry,
    boot_id,
)
from ratchet.node.process import process_began
from ratchet.node.underlay import UnderlayConfig
from tests.support.lines import lines_run

ONE = Attachment("net", "c1", "eth0")


def link(ifname: str) -> Link:
    return Link(f"link-{ifname}", "default", End("a", ifname), End("b", "in2"))


def entry(attachment: Attachment = ONE, netns: str = "/run/netns/a", *ifnames: str) -> SandboxEntry:
    ends = tuple(HeldEnd(link(name), Side.PRIMARY) for name in ifnames or ("in1",))
    delegation = Delegation({"type": "bridge", "name": "net", "cniVersion": "1.0.0"}, {"cniVersion": "1.0.0"})
    return SandboxEntry(attachment, netns, PodRef("default", "a", "uid"), ends, (delegation,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def journal(root: Path) -> Journal:
    return Journal(root)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@contextmanager
def opened_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that os.open opens within the block."""
    opened: list[str] = []
    original = os.open

    def counted(path: str | Path, *arguments: Any, **options: Any) -> int:
        opened.append(Path(path).name)
        return original(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", counted)
        yield opened


def since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# Sandboxes


def test_a_written_entry_is_read(journal: Journal) -> None:
    assert journal.read(ONE) is None
    journal.write(entry())
    assert journal.read(ONE) == entry()
    bare = SandboxEntry(ONE, "/run/netns/b")
    journal.write(bare)
    assert journal.read(ONE) == bare


def test_another_journal_of_the_node_reads_an_entry(journal: Journal, root: Path) -> None:
    journal.write(entry())
    assert Journal(str(root)).read(ONE) == entry()


def test_each_attachment_has_its_own_entry(journal: Journal) -> None:
    attachments = [
        ONE,
        Attachment("net", "c1", "eth1"),
        Attachment("net", "c2", "eth0"),
        Attachment("other", "c1", "eth0"),
        Attachment("n" * 4000, "c" * 200, "e" * 15),
    ]
    for one in attachments:
        journal.write(entry(one))
    assert [journal.read(one) for one in attachments] == [entry(one) for one in attachments]
    assert {one.attachment for one in journal.entries()} == set(attachments)


def test_forget_removes_an_entry_and_is_idempotent(journal: Journal, root: Path) -> None:
    journal.forget(ONE)
    journal.write(entry())
    journal.forget(ONE)
    journal.forget(ONE)
    assert journal.read(ONE) is None
    assert journal.entries() == []
    assert files(root) == []


def test_reading_an_empty_journal_creates_no_files(journal: Journal, root: Path) -> None:
    assert journal.entries() == []
    assert not journal.is_anothers(Location("/run/netns/a"), "in1", "c1")
    assert not root.exists()


def test_only_the_owner_can_access_files_and_folders(journal: Journal, root: Path) -> None:
    before = os.umask(0)
    try:
        journal.write(entry())
        journal.bury(ONE, since_boot())
        with journal.lock("link"):
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}
    finally:
        os.umask(before)
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}


def test_a_partly_written_file_is_not_read(journal: Journal, root: Path) -> None:
    journal.write(entry())
    (stored,) = files(root)
    content = stored.read_text()
    stored.with_name(".4711.deadbeef").write_text(content[:40])
    assert journal.entries() == [entry()]


def test_a_concurrent_reader_sees_the_old_or_the_new_entry(journal: Journal) -> None:
    states = [entry(ONE, "/run/netns/a", *(f"in{n}" for n in range(count))) for count in (1, 60)]
    journal.write(states[0])
    done = threading.Event()

    def write() -> None:
        for number in range(150):
            journal.write(states[number % 2])
        done.set()

    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(write)
        while not done.is_set():
            assert journal.read(ONE) in states
        writing.result()


def test_a_failed_write_leaves_no_files(journal: Journal, root: Path) -> None:
    (root / "sandboxes" / ONE.file_name).mkdir(parents=True)
    with pytest.raises(RatchetError, match=r"cannot write .*c1\+eth0"):
        journal.write(entry())
    assert files(root) == []


@pytest.mark.parametrize("parts", [(), ("sandboxes",), ("deleted",)], ids=["all", "sand", "dead"])
def test_writes_fail_and_reads_find_nothing_if_a_folder_cannot_be_created(
    journal: Journal, root: Path, parts: tuple[str, ...]
) -> None:
    blocked = root.joinpath(*parts)
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("a file in the folder's place")

    def locked() -> None:
        with journal.lock("link"):
            pass

    acts: dict[str, Callable[[], object]] = {
        "sandboxes": lambda: journal.write(entry()),
        "deleted": lambda: journal.bury(ONE, since_boot()),
        "locks": locked,
    }
    for part, act in acts.items():
        if not parts or part in parts:
            with pytest.raises(RatchetError, match="cannot write ") as caught:
                act()
            assert "state_dir" in caught.value.details
            assert not isinstance(caught.value, TryAgainError)
    assert journal.read(ONE) is None
    assert journal.entries() == []
    assert not journal.is_buried(ONE, 0)
    journal.forget(ONE)


BROKEN: list[Any] = [None, 5, [], ["x"], {}, {"network": "net"}, "text", {"pod": "x", "ends": None}]


@pytest.mark.parametrize("document", [*map(json.dumps, BROKEN), "", "{", '{"network": "ne', "\0", "[" * 100_000])
def test_an_unreadable_file_counts_as_missing(journal: Journal, root: Path, document: str) -> None:
    other = Attachment("net", "c2", "eth0")
    journal.write(entry(other))
    journal.bury(other, since_boot())
    for path in (root / "sandboxes" / ONE.file_name, root / "deleted" / ONE.interface_key):
        path.write_text(document)
    assert journal.read(ONE) is None
    assert journal.entries() == [entry(other)]
    assert journal.is_anothers(Location("/run/netns/a"), "in1", "c1")
    assert not journal.is_buried(ONE, 0)
    journal.write(entry())
    assert journal.read(ONE) == entry()


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_reading_an_entry_with_any_broken_part_does_not_raise(
    journal: Journal, root: Path, data: st.DataObject
) -> None:
    journal.write(entry())
    (stored,) = files(root)
    document = json.loads(stored.read_text())
    place: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(place))) if isinstance(place, dict) else 0
        inner = place[key]
        if not inner or not isinstance(inner, dict | list) or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(st.sampled_from([None, 5, "x", [], {}, [5], {"x": 5}]))
    stored.write_text(json.dumps(document))
    found = journal.read(ONE)
    held = (
        found is not None
        and (found.netns, found.boot) == ("/run/netns/a", boot_id())
        and any(end.ifname == "in1" for end in found.ends)
    )
    assert journal.is_anothers(Location("/run/netns/a"), "in1", "c2") is held
    if found is not None:  # then it can be written, and read again
        assert decode_entry(json.loads(json.dumps(encode_entry(found)))) == found


def test_an_interface_in_another_sandboxs_entry_is_anothers(journal: Journal) -> None:
    journal.write(entry(Attachment("net", "c2", "eth0"), "/run/netns/a", "in1", "in2"))
    assert journal.is_anothers(Location("/run/netns/a"), "in1", "c1")
    assert journal.is_anothers(Location("/run/netns/a"), "in2", "c1")
    assert not journal.is_anothers(Location("/run/netns/a"), "in1", "c2")
    assert not journal.is_anothers(Location("/run/netns/b"), "in1", "c1")
    assert not journal.is_anothers(Location("/run/netns/a"), "in3", "c1")


# Tombstones


def test_a_del_buries_an_earlier_add_and_not_a_later_one(journal: Journal) -> None:
    before = since_boot()
    assert not journal.is_buried(ONE, before)
    assert journal.bury(ONE, since_boot()) is False
    assert journal.is_buried(ONE, before)
    assert not journal.is_buried(ONE, since_boot())
    assert not journal.is_buried(Attachment("net", "c2", "eth0"), before)


def test_a_second_del_finds_the_tombstone_of_the_first(journal: Journal) -> None:
    journal.bury(ONE, since_boot())
    between = since_boot()
    assert journal.bury(ONE, since_boot()) is True
    assert journal.is_buried(ONE, between)


def test_a_del_of_another_network_counts_as_the_first(journal: Journal) -> None:
    """What its delegates created may still exist."""
    journal.bury(ONE, since_boot())
    assert journal.bury(Attachment("renamed", "c1", "eth0"), since_boot()) is False


def test_a_del_under_a_new_network_name_buries_an_add_under_the_old_name(root: Path) -> None:
    renamed, before = Attachment("renamed", "c1", "eth0"), since_boot()
    Journal(root).bury(renamed, since_boot())
    for journal in (Journal(root), Journal(root, remembers=True)):
        assert journal.is_buried(ONE, before)
        assert not journal.is_buried(ONE, since_boot())
        assert not journal.is_buried(Attachment("net", "c1", "eth1"), before)
        assert journal.is_deleted("c1")
        assert not journal.is_deleted("c")


@pytest.mark.parametrize("remembers", [False, True])
def test_a_del_without_an_entry_finds_those_under_other_network_names(root: Path, remembers: bool) -> None:
    journal = Journal(root, remembers=remembers)
    assert journal.to_delete(ONE) == []
    older, old = (entry(Attachment(name, "c1", "eth0")) for name in ("older", "old"))
    for one in ("c1", "eth1"), ("c12", "eth0"), ("c1", "eth0+x"), ("c", "eth0"):
        journal.write(entry(Attachment("old", *one)))
    journal.write(old)
    assert journal.to_delete(ONE) == [old]
    journal.write(older)
    assert {one.attachment for one in journal.to_delete(ONE)} == {older.attachment, old.attachment}
    journal.write(entry())
    assert journal.to_delete(ONE) == [entry()]


def test_a_del_reads_only_entries_of_its_container_and_interface(
    journal: Journal, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        journal.write(entry(Attachment("old", f"c{number}", "eth0")))
    with opened_files(monkeypatch) as opened:
        assert [one.attachment for one in Journal(root).to_delete(ONE)] == [Attachment("old", "c1", "eth0")]
    assert opened == [Attachment("old", "c1", "eth0").file_name]


def test_the_entry_of_a_static_pod_has_the_static_pods_uid(journal: Journal) -> None:
    journal.write(replace(entry(), pod=PodRef("default", "a", "uid", "static-1")))
    stored = journal.read(ONE)
    assert stored is not None
    assert stored.pod is not None
    assert stored.pod.mirror == "static-1"


def test_an_entry_without_a_static_pods_uid_is_read(journal: Journal, root: Path) -> None:
    """Earlier versions of the plugin do not write it."""
    journal.write(entry())
    path = root / "sandboxes" / ONE.file_name
    document = json.loads(path.read_text())
    del document["pod"]["mirror"]
    path.write_text(json.dumps(document))
    assert journal.read(ONE) == entry()


def test_bury_keeps_the_entry(journal: Journal) -> None:
    journal.write(entry())
    journal.bury(ONE, since_boot())
    assert journal.read(ONE) == entry()


def test_a_tombstone_of_another_boot_is_ignored(journal: Journal, root: Path) -> None:
    journal.bury(ONE, since_boot())
    (tombstone,) = files(root)
    document = json.loads(tombstone.read_text())
    assert document["boot"] == boot_id()
    tombstone.write_text(json.dumps({**document, "boot": "00000000-0000-0000-0000-000000000000"}))
    assert not journal.is_buried(ONE, 0)


def test_bury_removes_old_tombstones(journal: Journal, root: Path) -> None:
    """Both the DEL's time and the file's mtime must be old: a DEL can be late, and the clock can step."""
    old, fresh, late, stepped, new = every = [Attachment("net", one, "eth0") for one in ("o", "f", "l", "s", "n")]
    long, short = TOMBSTONE_SECONDS + 60, TOMBSTONE_SECONDS - 60
    for one, age, age_of_file in ((old, long, long), (fresh, short, short), (late, long, 0), (stepped, 0, long)):
        journal.bury(one, since_boot() - age)
        moment = time.time() - age_of_file
        os.utime(root / "deleted" / one.interface_key, (moment, moment))
    Journal(root).bury(new, since_boot())
    assert [journal.is_buried(one, -TOMBSTONE_SECONDS * 2) for one in every] == [False, True, True, True, True]
    assert len(files(root)) == 4


def test_bury_removes_partly_written_files_of_killed_processes(journal: Journal, root: Path) -> None:
    journal.write(SandboxEntry(ONE, "/run/netns/x"))
    left, new = (root / "sandboxes" / name for name in (".17.0badcafe", ".18.0badcafe"))
    for partial, age in ((left, TOMBSTONE_SECONDS + 60), (new, 0.0)):
        partial.write_text("{")
        os.utime(partial, (time.time() - age, time.time() - age))
    Journal(root).bury(Attachment("net", "new", "eth0"), since_boot())
    assert not left.exists()
    assert new.exists()
    assert journal.read(ONE) is not None


def test_bury_removes_tombstones_of_an_earlier_boot(journal: Journal, root: Path) -> None:
    journal.bury(ONE, since_boot())
    path = root / "deleted" / ONE.interface_key
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another", "at": since_boot() + 1e6}))
    moment = time.time() - TOMBSTONE_SECONDS - 60
    os.utime(path, (moment, moment))
    Journal(root).bury(Attachment("net", "new", "eth0"), since_boot())
    assert not path.exists()


def test_only_one_of_several_concurrent_adds_begins(journal: Journal, root: Path) -> None:
    """Threads, each with its own journal. An unreadable file is set aside."""
    with ThreadPoolExecutor(16) as executor:
        for number in range(20):
            one = entry(Attachment("net", f"c{number}", "eth0"))
            assert sorted(executor.map(lambda _, one=one: Journal(root).begin(one), range(16)))[-2:] == [False, True]
            assert not journal.begin(one)
            assert journal.read(one.attachment) == one
    (root / "sandboxes" / ONE.file_name).write_text("{")
    assert journal.begin(entry())
    assert journal.read(ONE) == entry()
    assert (root / "unreadable" / ONE.file_name).read_text() == "{"
    assert len(files(root / "sandboxes")) == 20


BEGIN = """
import sys
from pathlib import Path
from ratchet.node.journal import Attachment, Journal, SandboxEntry
journal = Journal(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    print(int(journal.begin(SandboxEntry(Attachment("net", f"c{number}", "eth0"), f"/run/netns/{sys.argv[2]}"))))
"""


def test_only_one_of_several_concurrent_processes_begins_an_add(journal: Journal, root: Path) -> None:
    command = [sys.executable, "-c", BEGIN, str(root)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen([*command, str(one)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for one in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:  # by now all of them only wait for this line
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        begun = [process.communicate()[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    for number, answers in enumerate(zip(*begun, strict=True)):
        assert sorted(answers) == ["0", "0", "0", "1"]
        found = journal.read(Attachment("net", f"c{number}", "eth0"))
        assert found is not None
        assert found.netns == f"/run/netns/{answers.index('1')}"


def test_process_began_is_between_the_boot_and_now() -> None:
    assert 0 <= process_began() < since_boot()
    code = "import time; from ratchet.node.process import process_began as b; print(b(), time.clock_gettime(7))"
    before = since_boot()
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    began, ran = map(float, printed.split())
    assert before - 0.05 <= began <= ran


# Locks


HOLD = """
import sys
from ratchet.node.journal import Journal
with Journal(sys.argv[1]).lock(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(root: Path, link: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), link], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def is_free(root: Path, link: str = "link") -> bool:
    try:
        with Journal(root, lock_seconds=0).lock(link):
            return True
    except TryAgainError:
        return False


def test_a_lock_excludes_other_processes_until_its_holder_exits(root: Path) -> None:
    with held_elsewhere(root, "link") as holder:
        assert not is_free(root)
        assert is_free(root, "another link")
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait(10) == 0
        assert is_free(root)


def test_a_lock_is_free_after_its_holder_is_killed(root: Path) -> None:
    with held_elsewhere(root, "link") as holder:
        holder.send_signal(signal.SIGKILL)
        assert holder.wait(10) == -signal.SIGKILL
        assert is_free(root)


def test_a_waiting_thread_gets_the_lock_once_it_is_free(root: Path) -> None:
    with held_elsewhere(root, "link") as holder, ThreadPoolExecutor(1) as waiter:
        entered = threading.Event()

        def wait() -> None:
            with Journal(root).lock("link"):
                entered.set()

        waiting = waiter.submit(wait)
        assert not entered.wait(0.1)
        assert holder.stdin is not None
        holder.stdin.close()
        waiting.result(10)
        assert entered.is_set()


def test_a_lock_held_too_long_is_an_error_that_names_the_link(root: Path) -> None:
    with Journal(root).lock("link"):
        began = time.monotonic()
        with pytest.raises(TryAgainError, match="cannot work on the link link"), Journal(root, 0.1).lock("link"):
            pytest.fail("entered a lock that is held")
        assert time.monotonic() - began >= 0.1


def test_locks_use_one_empty_file_and_leak_no_descriptors(journal: Journal, root: Path) -> None:
    with journal.lock("default.a.in1.b.in2"), journal.lock("x" * 5000):
        pass
    assert [(path.name, path.stat().st_size, path.stat().st_mode & 0o777) for path in files(root)] == [
        ("links.lock", 0, 0o600)
    ]
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        is_free(root)
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


def test_a_lock_holds_while_the_process_opens_and_closes_its_file(root: Path) -> None:
    """A lock owned by the process would be lost then (fcntl(2), "Record locking and POSIX")."""
    with Journal(root).lock("link"):
        assert is_free(root, "another link")
        assert not is_free(root)


def test_an_error_in_the_block_frees_the_lock(journal: Journal, root: Path) -> None:
    with pytest.raises(KeyError), journal.lock("link"):
        raise KeyError("x")
    assert is_free(root)


def test_only_one_thread_at_a_time_holds_a_lock(root: Path) -> None:
    inside: list[int] = []
    seen: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            with Journal(root).lock("link"):
                inside.append(number)
                os.sched_yield()
                seen.append(len(inside))
                inside.remove(number)

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        for worker in [pool.submit(work, number) for number in range(4)]:
            worker.result()
    assert seen == [1] * 40


def test_a_symlink_in_place_of_the_lock_file_is_not_followed(journal: Journal, root: Path, tmp_path: Path) -> None:
    with journal.lock("link"):
        (path,) = files(root)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RatchetError, match="cannot write"), journal.lock("link"):
        pytest.fail("locked something else")
    assert not (tmp_path / "elsewhere").exists()


# Reload


def test_reload_keeps_changes_that_are_made_meanwhile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD and a DEL fall between the reading of the files and the update of the memory."""
    agent = Journal(root, remembers=True)
    old, new = entry(), replace(entry(Attachment("net", "c2", "eth0")), began=2.0)
    agent.write(old)
    read_all = agent._files.read_all

    def meanwhile(start: str) -> list[SandboxEntry]:
        found = read_all(start)
        assert agent.begin(new)
        agent.forget(old.attachment)
        return found

    monkeypatch.setattr(agent._files, "read_all", meanwhile)
    agent.reload()
    assert agent.entries() == [new]


def test_reload_keeps_unreadable_entries_and_forgets_removed_ones(root: Path) -> None:
    agent = Journal(root, remembers=True)
    kept, gone = entry(), entry(Attachment("net", "c2", "eth0"))
    for one in (kept, gone):
        agent.write(one)
    (root / "sandboxes" / kept.attachment.file_name).write_text("half")
    (root / "sandboxes" / gone.attachment.file_name).unlink()
    agent.reload()
    assert agent.entries() == [kept]


def test_a_read_only_disk_can_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(root)
    journal.write(entry())
    journal.bury(ONE, 1.0)
    for path in [*(root / "deleted").iterdir()]:
        path.write_text("{}")
        os.utime(path, (1, 1))
    partial = root / "sandboxes" / ".half"
    partial.write_text("")
    os.utime(partial, (1, 1))

    def read_only(_: Path, missing_ok: bool = False) -> None:  # the parameters of Path.unlink
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    assert Journal(root, remembers=True).entries() == [entry()]


@pytest.mark.parametrize(
    "underlay",
    [
        UnderlayConfig(None, None, None),
        UnderlayConfig("eth0", None, 4789),
        UnderlayConfig(None, "10.0.0.1", 8472),
        None,
    ],
)
def test_an_underlay_is_read_as_it_was_written(underlay: UnderlayConfig | None, journal: Journal) -> None:
    journal.write(replace(entry(), underlay=underlay))
    found = journal.read(ONE)
    assert found is not None
    assert found.underlay == underlay


@pytest.mark.parametrize(("port", "read"), [(4789, None), (8472, 8472)])
def test_the_underlay_of_an_earlier_version_is_read(port: int, read: int | None, root: Path, journal: Journal) -> None:
    """Earlier versions write the default port if the network configuration has none."""
    journal.write(entry())
    path = root / "sandboxes" / ONE.file_name
    before = {"interface": "eth0", "address": None, "vxlan_port": port}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"underlay": before}))
    found = journal.read(ONE)
    assert found is not None
    assert found.underlay == UnderlayConfig("eth0", None, read)


def test_an_unset_port_is_written_as_the_default_for_earlier_versions(root: Path, journal: Journal) -> None:
    journal.write(replace(entry(), underlay=UnderlayConfig(None, None, None)))
    written = json.loads((root / "sandboxes" / ONE.file_name).read_text())["underlay"]
    assert (written["interface"], written["address"], written["vxlan_port"]) == (None, None, 4789)


def test_an_entry_is_decoded_once_for_each_version_of_its_file(
    journal: Journal, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of each link of an ADD reads the entry, which has all links of the pod."""
    journal.write(entry())
    another = Journal(root)
    with opened_files(monkeypatch) as opened:
        for _ in range(10):
            assert another.read(ONE) == entry()
        assert len(opened) == 1
        journal.write(replace(entry(), netns="/run/netns/other"))
        opened.clear()
        for _ in range(10):
            for one in (journal, another):
                found = one.read(ONE)
                assert found is not None
                assert found.netns == "/run/netns/other"
    assert len(opened) == 1, "by the journal that did not write it"


def test_an_entry_of_an_earlier_boot_owns_no_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this boot, another namespace can have the cookie of its namespace."""
    journal = Journal(tmp_path)
    other = Attachment("net", "c9", "eth0")
    with monkeypatch.context() as former:
        former.setattr(journal_module, "boot_id", lambda: "a former boot")
        journal.write(replace(entry(other), netns="/run/netns/old", cookie=7))
    here = Location("/run/netns/new", 7)
    ifname = entry().ends[0].ifname
    assert not journal.is_anothers(here, ifname, "c1")
    journal.write(replace(entry(other), netns="/run/netns/old", cookie=7))
    assert journal.is_anothers(here, ifname, "c1")


def test_a_forgotten_entry_is_not_kept_in_memory(journal: Journal) -> None:
    journal.write(entry())
    assert journal.read(ONE) == entry()
    journal.forget(ONE)
    assert journal._files._known == {}


# Cost of the queries that an agent makes for each sandbox


def test_an_agent_opens_no_file_for_a_sandbox_without_a_tombstone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Journal(root, remembers=True)
    agent.bury(Attachment("net", "deleted", "eth0"), since_boot())
    with opened_files(monkeypatch) as opened:
        for number in range(50):
            assert not agent.is_buried(Attachment("net", f"c{number}", "eth0"), 0.0)
    assert opened == []


def test_a_tombstone_is_read_once_for_each_version_of_its_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, plugin = Journal(root, remembers=True), Journal(root)
    plugin.bury(ONE, 5.0)
    with opened_files(monkeypatch) as opened:
        for _ in range(10):
            assert agent.is_buried(ONE, 5.0)
            assert not agent.is_buried(ONE, 6.0)
        assert len(opened) == 1
        plugin.bury(ONE, 6.0)
        opened.clear()
        for _ in range(10):
            assert agent.is_buried(ONE, 6.0)
        assert len(opened) == 1


def test_an_agent_sees_a_tombstone_of_the_plugin_at_once(root: Path) -> None:
    """The plugin serves a DEL that the agent does not accept. An ADD of the agent may still run."""
    agent, began = Journal(root, remembers=True), since_boot()
    assert not agent.is_buried(ONE, began)
    assert not agent.is_deleted("c1")
    Journal(root).bury(ONE, since_boot())
    assert agent.is_buried(ONE, began)
    assert agent.is_deleted("c1")


def test_the_tombstones_are_listed_again_only_after_a_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, plugin = Journal(root, remembers=True), Journal(root)
    plugin.bury(Attachment("net", "c9", "eth0"), since_boot())
    long_ago = time.time() - 60
    os.utime(root / "deleted", (long_ago, long_ago))
    listed: list[Path] = []
    original = os.listdir

    def counted(path: Path) -> list[str]:
        listed.append(path)
        return original(path)

    monkeypatch.setattr(os, "listdir", counted)
    for number in range(20):
        assert agent.is_deleted(f"c{number}") is (number == 9)
    assert len(listed) == 1
    plugin.bury(ONE, since_boot())
    assert agent.is_deleted("c1")
    assert len(listed) == 2


def test_a_folder_that_changed_just_now_is_listed_again(root: Path) -> None:
    """Two changes within one tick of the kernel's clock give the folder the same mtime."""
    agent, plugin = Journal(root, remembers=True), Journal(root)
    plugin.bury(Attachment("net", "c9", "eth0"), since_boot())
    assert not agent.is_deleted("c1")
    changed = (root / "deleted").stat().st_mtime_ns
    plugin.bury(ONE, since_boot())
    os.utime(root / "deleted", ns=(changed, changed))
    assert agent.is_deleted("c1")


def test_an_agent_keeps_a_tombstone_that_cannot_be_written(root: Path) -> None:
    agent, began = Journal(root, remembers=True), since_boot()
    root.mkdir(parents=True, exist_ok=True)
    (root / "deleted").write_text("a file in the folder's place")
    assert agent.bury(ONE, since_boot()) is False
    assert agent.bury(ONE, since_boot()) is True
    assert agent.is_buried(ONE, began)
    assert agent.is_deleted("c1")
    assert not agent.is_deleted("c")
    assert agent.deferred == 1
    (root / "deleted").unlink()
    agent.flush()
    assert agent.deferred == 0
    assert Journal(root).is_buried(ONE, began)


def test_purge_removes_deleted_tombstones_from_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Journal(root, remembers=True)
    agent.bury(ONE, since_boot())
    assert agent.is_buried(ONE, 0.0)
    (root / "deleted" / ONE.interface_key).unlink()
    agent._tombstones.purge()
    assert agent._tombstones._read == {}
    assert agent._tombstones.deferred == 0


def test_unchanged_entries_are_not_decoded_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reload reads changed files only, and none that the agent itself wrote."""
    found_at_start, written = (entry(Attachment("net", one, "eth0")) for one in ("c1", "c2"))
    plugin = Journal(root)
    plugin.write(found_at_start)
    with opened_files(monkeypatch) as opened:
        agent = Journal(root, remembers=True)
        assert opened == [found_at_start.attachment.file_name]
        agent.write(written)
        opened.clear()
        agent.reload()
        assert opened == []
        plugin.write(replace(found_at_start, netns="/run/netns/other"))
        opened.clear()
        agent.reload()
        assert opened == [found_at_start.attachment.file_name]
    assert {one.netns for one in agent.entries()} == {"/run/netns/a", "/run/netns/other"}


@pytest.mark.parametrize("remembers", [False, True])
def test_entries_are_found_by_the_name_of_their_pod(root: Path, remembers: bool) -> None:
    journal = Journal(root, remembers=remembers)
    first, second = (entry(Attachment("net", one, "eth0")) for one in ("c1", "c2"))
    other = replace(entry(Attachment("net", "c3", "eth0")), pod=PodRef("other", "a", "uid"))
    for one in (first, replace(second, pod=PodRef("default", "a", "uid-2")), other):
        journal.write(one)
    assert {one.attachment.container_id for one in journal.of_pod("default", "a")} == {"c1", "c2"}
    assert journal.of_pod("default", "b") == []
    journal.write(replace(second, pod=PodRef("default", "b", "uid")))
    journal.forget(first.attachment)
    assert journal.of_pod("default", "a") == []
    assert len(journal.of_pod("default", "b")) == 1


@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(
    ("netns", "cookie", "is_there"),
    [
        ("/run/netns/a", 0, True),
        ("/run/netns/a", 7, True),
        ("/run/netns/moved", 7, True),
        ("/run/netns/a", 8, False),
        ("/run/netns/moved", 8, False),
        ("/run/netns/moved", 0, False),
    ],
)
def test_entries_are_found_by_their_network_namespace(
    root: Path, remembers: bool, netns: str, cookie: int, is_there: bool
) -> None:
    """Cookies are compared if both are known, else paths."""
    journal = Journal(root, remembers=remembers)
    known = replace(entry(), cookie=7)
    journal.write(known)
    journal.write(entry(Attachment("net", "c2", "eth0"), "/run/netns/b"))
    here = Location(netns, cookie)
    assert journal.in_namespace(here) == ([known] if is_there else [])
    assert journal.is_anothers(here, "in1", "c9") is is_there
    journal.write(replace(known, cookie=9, netns="/run/netns/c"))
    assert journal.in_namespace(here) == []


@pytest.mark.parametrize("remembers", [False, True])
def test_an_entry_without_a_cookie_is_found_by_its_path(root: Path, remembers: bool) -> None:
    journal = Journal(root, remembers=remembers)
    journal.write(entry())
    assert journal.in_namespace(Location("/run/netns/a", 7)) == [entry()]
    assert journal.in_namespace(Location("/run/netns/b", 7)) == []


def test_a_del_checks_only_the_entries_of_its_namespace(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Journal(root, remembers=True)
    for number in range(20):
        agent.write(entry(Attachment("net", f"c{number}", "eth0"), f"/run/netns/{number}"))
    compared: list[str] = []
    original = SandboxEntry.is_in

    def counted(self: SandboxEntry, location: Location) -> bool:
        compared.append(self.netns)
        return original(self, location)

    monkeypatch.setattr(SandboxEntry, "is_in", counted)
    assert agent.is_anothers(Location("/run/netns/3"), "in1", "c9")
    assert compared == ["/run/netns/3"]


def test_a_del_does_not_check_the_other_ends_of_its_sandbox(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEL asks for each end, so a pod with 100 links would need 10,000 comparisons."""
    agent = Journal(root, remembers=True)
    agent.write(entry(ONE, "/run/netns/a", *(f"in{number}" for number in range(20))))
    compared: list[str] = []
    original = Link.end

    def counted(self: Link, side: Side) -> End:
        compared.append(self.name)
        return original(self, side)

    monkeypatch.setattr(Link, "end", counted)
    assert not agent.is_anothers(Location("/run/netns/a"), "in1", "c1")
    assert compared == []
    assert agent.is_anothers(Location("/run/netns/a"), "in1", "c1", "link-in2"), "of another link"
    assert not agent.is_anothers(Location("/run/netns/a"), "in1", "c1", "link-in1")


@pytest.mark.parametrize("key", ["network", "container_id", "ifname", "netns"])
def test_an_agent_starts_with_a_broken_entry(root: Path, key: str) -> None:
    Journal(root).write(entry())
    (path,) = files(root)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: ["x"]}))
    assert Journal(root, remembers=True).entries() == []


# Power loss


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files and folders that are synced."""
    names: list[str] = []
    original = os.fsync

    def recorded(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return names


def test_calls_do_not_wait_for_a_sync_which_a_flush_does(journal: Journal, synced: list[str]) -> None:
    assert journal.begin(entry())
    journal.write(replace(entry(), netns="/run/netns/b"))
    journal.bury(ONE, since_boot())
    assert synced == []
    journal.flush()
    assert synced == [ONE.file_name, "sandboxes"]
    journal.flush()
    assert synced == [ONE.file_name, "sandboxes"]


def test_a_flush_syncs_the_removal_of_an_entry(journal: Journal, synced: list[str]) -> None:
    journal.write(entry())
    journal.forget(ONE)
    journal.flush()
    assert synced == ["sandboxes"]


def test_a_flush_logs_a_failed_sync(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    journal.write(entry())
    journal.flush()
    assert "a power loss may lose changes" in caplog.text
    assert "Input/output error" in caplog.text


@pytest.mark.parametrize("question", ["still_wants", "holding", "location"])
def test_a_question_about_one_link_costs_the_same_however_many_links_the_pod_has(root: Path, question: str) -> None:
    """Each link of a pod asks it, so the cost of a pod would be quadratic."""
    costs = []
    for links in (10, 1000):
        journal = Journal(root / str(links), remembers=True)
        journal.write(replace(entry(ONE, "/run/netns/a", *(f"e{number}" for number in range(links))), asks=True))
        held = journal.read(ONE)
        assert held is not None
        last = held.ends[-1]
        questions: dict[str, tuple[Callable[[], object], object]] = {
            "still_wants": (lambda: journal.still_wants(held, last), True),  # noqa: B023
            "holding": (lambda: journal.holding(last.link), [(held, last)]),  # noqa: B023
            "location": (lambda: journal.location(last.link, "c1"), held.location(last)),  # noqa: B023
        }
        ask, answer = questions[question]
        assert ask() == answer
        costs.append(lines_run(ask))
    assert costs[0] == costs[1]


@pytest.mark.parametrize("links", [1, 8, 9, 100])
def test_an_entry_finds_its_end_of_a_link(links: int) -> None:
    held = entry(ONE, "/run/netns/a", *(f"e{number}" for number in range(links)))
    assert [held.end_of(end.link) for end in held.ends] == list(held.ends)
    assert held.end_of("another") is None
    assert replace(held, ends=held.ends[1:]).end_of(held.ends[0].link) is None
