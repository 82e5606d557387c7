"""HeldEndState: a worker continues while the sandbox holds the end and DEL has not been called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.agent.sandbox_state import HeldEndState
from ratchet.core.model import Side
from ratchet.errors import SupersededError
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry, since_boot
from tests.support.links import own, wanted

END = HeldEnd(wanted(), Side.PRIMARY, 1_000_000)
SANDBOX = own(Side.PRIMARY)
ATTACHMENT = Attachment("net", SANDBOX.container_id, "eth0")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, remembers=True)


@pytest.fixture
def entry(journal: Journal) -> SandboxEntry:
    entry = SandboxEntry(ATTACHMENT, SANDBOX.netns, SANDBOX.pod, (END,), asks=True, began=since_boot())
    journal.write(entry)
    return entry


def test_an_end_that_its_sandbox_holds_is_accepted(journal: Journal, entry: SandboxEntry) -> None:
    state = HeldEndState(journal, entry, END)
    state.refuse_superseded()
    assert not state.is_deleted()


def test_a_removed_end_is_rejected(journal: Journal, entry: SandboxEntry) -> None:
    journal.change_ends(ATTACHMENT, lambda _: ())
    with pytest.raises(SupersededError, match=f"cannot link pod {entry.pod}: link {END.link} was removed"):
        HeldEndState(journal, entry, END).refuse_superseded()


def test_an_end_superseded_by_a_later_add_is_rejected(journal: Journal, entry: SandboxEntry) -> None:
    journal.write(replace(entry, began=entry.began + 1))
    with pytest.raises(SupersededError):
        HeldEndState(journal, entry, END).refuse_superseded()


def test_an_end_is_deleted_only_by_a_del_after_its_add(journal: Journal, entry: SandboxEntry) -> None:
    journal.bury(ATTACHMENT, since_boot())
    assert HeldEndState(journal, entry, END).is_deleted()
    assert not HeldEndState(journal, replace(entry, began=since_boot() + 1), END).is_deleted()
