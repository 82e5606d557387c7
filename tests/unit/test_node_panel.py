"""What the agent logs of its patch panel: each change once, and no fault ends its work."""

from __future__ import annotations

from collections.abc import Callable
from errno import EMFILE
from typing import Any, cast

import pytest

from ratchet.agent import panel
from ratchet.agent.panel import NodePanel
from ratchet.datapath.netns import Netns
from ratchet.datapath.panel.namespace import Panel
from ratchet.errors import ForeignNamespaceError, HostNamespaceError

PATH = "/run/netns/p"
PANEL = Panel(Netns(PATH, 7), 42)


class Kernel:
    """The panel at the path, as a test sets it: an error is raised."""

    def __init__(self) -> None:
        self.held: Panel | Exception | None = None
        self.has_name: bool | Exception = True
        self.looks = 0

    def hold(self, path: str) -> Panel | None:
        assert path == PATH
        self.looks += 1
        return cast("Panel | None", _raised(self.held))

    def name(self, held: Panel) -> bool:
        assert held is PANEL
        return cast(bool, _raised(self.has_name))


def _raised(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(panel, "hold_panel", made.hold)
    monkeypatch.setattr(panel, "has_name", made.name)
    return made


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level("INFO")

    def take() -> list[str]:
        messages = [one.getMessage() for one in caplog.records]
        caplog.clear()
        return messages

    return take


def test_a_node_without_a_panel_logs_nothing_and_looks_again(kernel: Kernel, logged: Callable[[], list[str]]) -> None:
    node = NodePanel(PATH)
    node.look()
    node.hold()
    assert (node.descriptor, node.fault, logged(), kernel.looks) == (None, "", [], 2)


def test_a_held_panel_is_logged_once_and_not_looked_for_again(kernel: Kernel, logged: Callable[[], list[str]]) -> None:
    node, kernel.held = NodePanel(PATH), PANEL
    for _ in range(3):
        node.hold()
    assert (node.descriptor, kernel.looks) == (7, 1)
    assert logged() == ["patch panel opened path=/run/netns/p cookie=42"]


def test_a_lost_name_is_logged_once_and_the_panel_stays_open(kernel: Kernel, logged: Callable[[], list[str]]) -> None:
    node, kernel.held = NodePanel(PATH), PANEL
    node.look()
    logged()
    kernel.has_name = False
    for _ in range(2):
        node.look()
    assert logged() == ["patch panel lost its name, links stay path=/run/netns/p"]
    assert (node.descriptor, node.fault) == (7, "")
    kernel.has_name = True
    for _ in range(2):
        node.look()
    assert logged() == ["patch panel has its name again path=/run/netns/p"]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ForeignNamespaceError("cannot use p: it is not Ratchet's", details="Delete it."), "{} (Delete it.)"),
        (HostNamespaceError("cannot act in p: it is the node's own"), "{}"),
        (OSError(EMFILE, "Too many open files"), "cannot open patch panel /run/netns/p: Too many open files"),
    ],
)
@pytest.mark.parametrize("is_held", [False, True])
def test_a_fault_is_logged_once(
    error: Exception, fault: str, is_held: bool, kernel: Kernel, logged: Callable[[], list[str]]
) -> None:
    node = NodePanel(PATH)
    if is_held:
        kernel.held, kernel.has_name = PANEL, True
        node.look()
        logged()
        kernel.has_name = error
    else:
        kernel.held = error
    for _ in range(2):
        node.look()
    assert node.fault == fault.format(error)
    assert logged() == [f'patch panel unusable cause="{node.fault}"']
    assert node.descriptor == (7 if is_held else None)
    kernel.held, kernel.has_name = PANEL, True
    for _ in range(2):
        node.look()
    assert node.fault == ""
    assert logged()[0] == "patch panel fault is over path=/run/netns/p"
    assert node.descriptor == 7
