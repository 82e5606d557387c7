"""The places of attachments in the patch panel, as the journal assigns them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.core.kinds import Wiring
from ratchet.core.model import Side
from ratchet.core.panel import PANEL_PATH, PanelSlot, attachment_groups
from ratchet.core.schemas import PANEL_SCHEMA
from ratchet.errors import RatchetError
from ratchet.node.entries import decode_entry, encode_entry
from ratchet.node.entry_files import EntryFiles
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry
from ratchet.node.panel_slots import PanelSlots
from tests.support.links import joined, own

ONE, OTHER = Attachment("net", "c1", "eth0"), Attachment("net", "c2", "eth0")
DIRECT = HeldEnd(joined(own(Side.PRIMARY), None), Side.PRIMARY, 1_000_000)
PANEL = replace(DIRECT, wanted=replace(DIRECT.wanted, wiring=Wiring.PANEL, schema=PANEL_SCHEMA))


def entry(*ends: HeldEnd, attachment: Attachment = ONE) -> SandboxEntry:
    return SandboxEntry(attachment, "/run/netns/a", own(Side.PRIMARY).pod, ends, asks=True)


def groups(folder: Path) -> dict[int, str]:
    return {int(path.name, 16): str(path.readlink()) for path in folder.iterdir()}


def test_an_attachment_gets_a_place_with_its_first_link_in_panel_wiring(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.slots.placed(entry()).slot is None
    assert journal.slots.placed(entry(DIRECT)).slot is None
    placed = journal.slots.placed(entry(DIRECT, PANEL))
    assert placed.slot == PanelSlot(PANEL_PATH, next(attachment_groups(ONE.file_name)))
    assert journal.slots.placed(placed) is placed
    assert placed.location(PANEL).slot == placed.slot
    assert journal.begin(placed)
    assert Journal(tmp_path).read(ONE) == placed


def test_a_running_pod_gets_its_place_when_its_links_change(tmp_path: Path) -> None:
    journal = Journal(tmp_path, remembers=True, panel="/run/netns/other")
    journal.begin(entry(DIRECT))
    assert journal.change_ends(ONE, lambda _: (PANEL,))
    changed = journal.read(ONE)
    assert changed is not None
    assert changed.slot is not None
    assert changed.slot.path == "/run/netns/other"
    assert journal.change_ends(ONE, lambda _: (DIRECT,))
    assert journal.read(ONE) == replace(changed, ends=(DIRECT,)), "its cables may still be there"


def test_two_attachments_never_have_one_group(tmp_path: Path) -> None:
    slots = PanelSlots(tmp_path / "panel", PANEL_PATH)
    first = slots.claim(ONE)
    (tmp_path / "panel" / f"{first.group:x}").unlink()
    taken = list(zip(attachment_groups(ONE.file_name), range(3), strict=False))
    for group, _ in taken:
        (tmp_path / "panel" / f"{group:x}").symlink_to("another")
    assert slots.claim(ONE).group not in {group for group, _ in taken}
    assert slots.claim(ONE) == slots.claim(ONE), "it keeps the one that it has"


def test_concurrent_claims_of_one_group_have_one_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All attachments prefer the same group."""
    groups_in_turn = list(attachment_groups("any"))[:64]
    monkeypatch.setattr("ratchet.node.panel_slots.attachment_groups", lambda _: iter(groups_in_turn))
    slots = PanelSlots(tmp_path / "panel", PANEL_PATH)
    attachments = [Attachment("net", f"c{number}", "eth0") for number in range(32)]
    with ThreadPoolExecutor(16) as executor:
        claimed = list(executor.map(slots.claim, attachments))
    assert len({slot.group for slot in claimed}) == len(attachments)


def test_a_group_is_freed_with_its_entry_and_by_nobody_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    placed = journal.slots.placed(entry(PANEL))
    journal.begin(placed)
    assert placed.slot is not None
    PanelSlots(tmp_path / "panel", PANEL_PATH).free(placed.slot, OTHER)
    assert groups(tmp_path / "panel") == {placed.slot.group: ONE.file_name}
    journal.forget(ONE)
    assert groups(tmp_path / "panel") == {}


def test_the_group_of_an_add_that_was_killed_is_freed_later(tmp_path: Path) -> None:
    slots = PanelSlots(tmp_path / "panel", PANEL_PATH)
    old, held, new = (Attachment("net", name, "eth0") for name in ("old", "held", "new"))
    for attachment in (old, held, new):
        slot = slots.claim(attachment)
        if attachment is not new:
            os.utime(tmp_path / "panel" / f"{slot.group:x}", (1, 1), follow_symlinks=False)
    slots.remove_stale(2, lambda name: name == held.file_name)
    assert sorted(groups(tmp_path / "panel").values()) == sorted([held.file_name, new.file_name])


def test_no_group_is_freed_while_it_is_unknown_whether_its_entry_exists(tmp_path: Path) -> None:
    slots = PanelSlots(tmp_path / "panel", PANEL_PATH)
    slot = slots.claim(ONE)
    os.utime(tmp_path / "panel" / f"{slot.group:x}", (1, 1), follow_symlinks=False)
    files = EntryFiles(tmp_path / "sandboxes", tmp_path / "unreadable")
    slots.remove_stale(2, files.has)
    assert groups(tmp_path / "panel") == {slot.group: ONE.file_name}, "the folder of the entries is missing"
    (tmp_path / "sandboxes").mkdir()
    slots.remove_stale(2, files.has)
    assert groups(tmp_path / "panel") == {}


def test_a_group_that_is_freed_during_a_claim_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = PanelSlots(tmp_path / "panel", PANEL_PATH)
    first, second = (group for group, _ in zip(attachment_groups(ONE.file_name), range(2), strict=False))
    (tmp_path / "panel").mkdir()
    (tmp_path / "panel" / f"{first:x}").symlink_to("another")
    read = Path.readlink

    def freed(path: Path) -> Path:
        path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "readlink", freed)
    assert slots.claim(ONE).group == second


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "panel").write_text("")
    with pytest.raises(RatchetError, match=r"cannot write .*/panel"):
        Journal(tmp_path).slots.placed(entry(PANEL))


@pytest.mark.parametrize("panel", [None, {"path": "/run/netns/x", "group": 0x52000007}])
def test_an_entry_keeps_its_place(panel: dict[str, object] | None) -> None:
    document = encode_entry(entry(PANEL)) | {"panel": panel}
    decoded = decode_entry(document)
    assert decoded is not None
    assert encode_entry(decoded)["panel"] == panel
    del document["panel"]
    assert (earlier := decode_entry(document)) is not None
    assert earlier.slot is None


@pytest.mark.parametrize(
    "panel", [{"path": "/run/netns/x"}, {"path": 1, "group": 0x52000007}, {"path": "x", "group": 7}]
)
def test_an_entry_with_an_invalid_place_is_unreadable(panel: dict[str, object]) -> None:
    assert decode_entry(encode_entry(entry(PANEL)) | {"panel": panel}) is None
