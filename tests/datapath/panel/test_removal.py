"""`ratchet uninstall` on a node with a patch panel."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.cli.main import main
from ratchet.core.panel import PanelSlot
from ratchet.core.pod import PodRef
from ratchet.datapath.panel.namespace import Panel
from ratchet.node.journal import Attachment, Journal, SandboxEntry
from tests.support.namespaces import Bed
from tests.support.panels import Panels, group_of


@pytest.fixture
def panel(pods: Bed, panels: Panels) -> Panel:
    """A panel, and the pods pod-a and pod-b."""
    return panels.make()


def uninstall(bed: Bed, folder: Path, *options: str) -> int:
    folders = ("--bin-dir", str(folder / "bin"), "--state-dir", str(folder / "state"))
    (folder / "bin").mkdir(exist_ok=True)
    with bed.inside("node"):
        return main(["uninstall", *folders, "--panel", bed.path("panel"), *options])


def test_uninstall_is_refused_while_pods_have_cables_and_names_them(
    pods: Bed, panels: Panels, panel: Panel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pods.add("node")
    panels.cable(panel, "pod-a", "a")
    panels.cable(panel, "pod-b", "b")
    slot = PanelSlot(pods.path("panel"), group_of("pod-a"))
    entry = SandboxEntry(Attachment("net", "c1", "eth0"), pods.path("pod-a"), PodRef("lab", "r1", "u1"), slot=slot)
    Journal(tmp_path / "state").begin(entry)
    assert uninstall(pods, tmp_path) == 1
    error = capsys.readouterr().err
    assert "cannot uninstall: 2 interfaces of pods lead into the patch panel" in error
    assert ": lab/r1, ratchet/a-b" in error
    assert pods.interfaces("pod-a") == pods.interfaces("pod-b") == ["eth1"]


def test_uninstall_by_force_removes_the_panel_and_all_interfaces_that_lead_into_it(
    pods: Bed, panels: Panels, panel: Panel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pods.add("node")
    panels.cable(panel, "pod-a", "a")
    path = pods.path("panel")
    assert uninstall(pods, tmp_path, "--force") == 0
    assert f"removed the patch panel {path}" in capsys.readouterr().out
    assert (pods.interfaces("pod-a"), Path(path).exists()) == ([], False)
    assert uninstall(pods, tmp_path) == 0
    panels.make()  # it is deleted with the bed


def test_uninstall_removes_an_unused_panel(pods: Bed, panels: Panels, panel: Panel, tmp_path: Path) -> None:
    pods.add("node")
    assert uninstall(pods, tmp_path) == 0
    assert not Path(pods.path("panel")).exists()
    panels.make()  # it is deleted with the bed


def test_uninstall_leaves_a_namespace_that_is_not_ratchets(bed: Bed, tmp_path: Path) -> None:
    bed.add("node", "panel")
    assert uninstall(bed, tmp_path) == uninstall(bed, tmp_path, "--force") == 0
    assert Path(bed.path("panel")).exists()
