"""The limit on a node's links: new ones are refused, those that exist stay."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.core.model import End, Link, Side
from ratchet.core.pod import PodRef
from ratchet.errors import InvalidIntentError
from ratchet.node.entry_files import EntryFiles
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry

LIMIT = 4  # three for one namespace


def held(pod: str, *links: str, namespace: str = "team", side: Side = Side.PRIMARY) -> SandboxEntry:
    """The entry of a pod's sandbox, with an end of each link."""
    ends = tuple(HeldEnd(Link(one, namespace, End(pod, one), End("peer", one)), side) for one in links)
    return SandboxEntry(Attachment("net", pod, "eth0"), f"/{pod}", PodRef(namespace, pod, "uid"), ends, asks=True)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, remembers=True, links_most=LIMIT)


def test_an_add_over_the_limit_is_refused_and_writes_nothing(journal: Journal, tmp_path: Path) -> None:
    assert journal.begin(held("a", "l1", "l2", "l3"))
    with pytest.raises(InvalidIntentError, match="namespace team has 3 links on this node and the pod needs 1 more"):
        journal.begin(held("b", "l4"))
    assert [one.pod.name for one in journal.entries() if one.pod] == ["a"]
    assert [one.attachment.container_id for one in Journal(tmp_path).entries()] == ["a"]
    assert journal.begin(held("c", "l5", namespace="other"))
    with pytest.raises(InvalidIntentError, match="share of links_per_node, 4, is 0"):
        journal.begin(held("d", "l6", namespace="third"))


def test_both_ends_of_a_link_count_once(journal: Journal) -> None:
    journal.begin(held("a", "l1", "l2", "l3"))
    assert journal.begin(held("b", "l1", "l2", side=Side.PAIR))


def test_links_that_go_leave_room(journal: Journal) -> None:
    journal.begin(held("a", "l1", "l2", "l3"))
    journal.begin(held("b", "l1", side=Side.PAIR))
    journal.forget(held("a").attachment)
    assert journal.begin(held("c", "l4", "l5"))
    with pytest.raises(InvalidIntentError):
        journal.begin(held("d", "l6"))


def test_an_add_that_fails_to_write_takes_no_room(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk")

    with monkeypatch.context() as patched:
        patched.setattr(EntryFiles, "write", fail)
        with pytest.raises(OSError, match="disk"):
            journal.begin(held("a", "l1", "l2", "l3"))
    assert journal.begin(held("b", "l4", "l5", "l6"))


def test_a_running_pod_over_the_limit_takes_no_link_and_keeps_its_own(journal: Journal) -> None:
    first = held("a", "l1", "l2")
    journal.begin(first)
    with pytest.raises(InvalidIntentError):
        journal.change_ends(first.attachment, lambda ends: (*ends, *held("a", "l3", "l4").ends))
    found = journal.read(first.attachment)
    assert found is not None
    assert [end.link for end in found.ends] == ["l1", "l2"]


def test_a_link_may_get_another_record_on_a_full_node(journal: Journal) -> None:
    first = held("a", "l1", "l2", "l3")
    journal.begin(first)
    assert journal.change_ends(first.attachment, lambda ends: (*ends[1:], *held("a", "renamed").ends))
    with pytest.raises(InvalidIntentError):
        journal.change_ends(first.attachment, lambda ends: (*ends, *held("a", "l1").ends))


def test_links_of_before_stay_with_a_lower_limit(journal: Journal, tmp_path: Path) -> None:
    """Its entries can still be written, and an undone ADD is always written."""
    entry = held("a", "l1", "l2", "l3")
    journal.begin(entry)
    lower = Journal(tmp_path, remembers=True, links_most=1)
    assert [one.attachment for one in lower.entries()] == [entry.attachment]
    lower.write(replace(entry, delegations=()))
    assert lower.change_ends(entry.attachment, lambda ends: ends[1:])
    lower.write(replace(held("b", "l9"), asks=False))
    with pytest.raises(InvalidIntentError):
        lower.begin(held("c", "l4"))


def test_the_plugin_without_an_agent_has_no_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path, links_most=1)
    assert journal.begin(held("a", "l1", "l2", "l3"))


def test_concurrent_adds_do_not_exceed_the_limit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are admitted or refused before the first one has written its entry."""
    journal, write = Journal(tmp_path, remembers=True, links_most=8), EntryFiles.write
    decided = threading.Barrier(3)

    def late(self: EntryFiles, *arguments: object, **options: object) -> None:
        decided.wait(30)
        write(self, *arguments, **options)  # type: ignore[arg-type]

    def begin(pod: str) -> bool:
        try:
            return journal.begin(held(pod, f"{pod}1", f"{pod}2"))
        except InvalidIntentError:
            return False

    monkeypatch.setattr(EntryFiles, "write", late)
    with ThreadPoolExecutor(6) as executor:
        begun = list(executor.map(begin, "abcdef"))
    assert sum(begun) == 3
    assert sum(len(one.ends) for one in journal.entries()) == 6
