"""The agent reports once that the patch panel is another one than before, if pods have lost interfaces by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from ratchet.agent import panel_loss
from ratchet.agent.node_events import NodeEvents
from ratchet.agent.panel_loss import PanelLoss
from ratchet.core.model import Side
from ratchet.core.panel import PanelSlot, attachment_groups
from tests.support.memory import AgentNode, MemoryApi, sandbox_of

PATH = "/run/netns/p"
SLOT = PanelSlot(PATH, next(attachment_groups("one")))


class World:
    """A node whose agent starts again and again."""

    def __init__(self, node: AgentNode, folder: Path) -> None:
        self.node, self.folder, self.api = node, folder, MemoryApi()

    def opened(self, cookie: int) -> None:
        """A new agent opens the panel with this cookie."""
        events = NodeEvents(cast(Any, self.api), "a", enabled=True)
        PanelLoss(str(self.folder), self.node.journal, events).opened(PATH, cookie)
        events.send()

    def messages(self) -> list[tuple[str, str]]:
        return [(one["reason"], one["message"]) for path, one in self.api.objects.items() if "/events/" in path]


@pytest.fixture
def world(node: AgentNode, tmp_path: Path) -> World:
    return World(node, tmp_path)


LOST = ("PanelLost", f"patch panel {PATH} was lost and another one was made: 1 pod gets new interfaces")


def test_another_panel_is_reported_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.node.hold(sandbox_of(Side.PRIMARY), slot=SLOT)
    for cookie in (1, 1):
        world.opened(cookie)
    assert world.messages() == []
    for cookie in (2, 2):
        world.opened(cookie)
    assert world.messages() == [LOST]
    assert [one.getMessage() for one in caplog.records] == [
        f"patch panel lost, pods get new interfaces path={PATH} cookie=2 former=1 pods=1"
    ]
    world.opened(3)
    assert world.messages() == [LOST, LOST]


def test_nothing_is_lost_without_a_pod_in_panel_wiring(world: World) -> None:
    world.node.hold(sandbox_of(Side.PRIMARY))
    for cookie in (1, 2):
        world.opened(cookie)
    assert world.messages() == []


def test_nothing_is_lost_by_a_reboot(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.node.hold(sandbox_of(Side.PRIMARY), slot=SLOT)
    monkeypatch.setattr(panel_loss, "boot_id", lambda: "the boot before")
    world.opened(1)
    monkeypatch.undo()
    world.opened(2)
    assert world.messages() == []


def test_a_folder_that_cannot_be_written_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.folder = world.folder / "missing"
    world.opened(1)
    assert "patch panel not compared with the former one cause=" in caplog.text


def test_a_file_of_other_content_is_replaced(world: World) -> None:
    world.node.hold(sandbox_of(Side.PRIMARY), slot=SLOT)
    (world.folder / panel_loss.FILE).write_text("?")
    world.opened(1)
    assert world.messages() == []
    world.opened(2)
    assert world.messages() == [LOST]
