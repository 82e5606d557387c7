"""GC of the runtime: which attachments it finds in the journal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ratchet.node.collect import _attachments
from ratchet.node.journal import Attachment, Journal, SandboxEntry


def test_gc_finds_entries_and_the_unreadable_files_of_its_network(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    known, torn = Attachment("net", "c1", "eth0"), Attachment("net", "c2", "a+b")
    journal.write(SandboxEntry(known, "/run/netns/a"))
    for name in (torn.file_name, Attachment("other", "c3", "eth0").file_name, "no-name-of-ours"):
        (tmp_path / "sandboxes" / name).write_text("{")
    call = cast(Any, SimpleNamespace(journal=journal, network=SimpleNamespace(name="net")))
    assert list(_attachments(call)) == [(known, "/run/netns/a"), (torn, "")]
