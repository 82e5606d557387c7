"""The panel that a process holds: it outlives its name, and no other namespace takes its place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ratchet.core.panel import PANEL_MARK
from ratchet.datapath.panel.cables import cables_of
from ratchet.datapath.panel.namespace import ensure_panel, has_name, hold_panel, open_panel, release_panel
from ratchet.errors import DatapathError, ForeignNamespaceError, HostNamespaceError, NamespaceGoneError
from tests.support.namespaces import Bed
from tests.support.panels import Panels


@pytest.fixture
def path(bed: Bed) -> Iterator[str]:
    yield bed.path("panel")
    release_panel(bed.path("panel"))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def unname(bed: Bed) -> None:
    bed.delete("panel")
    assert not Path(bed.path("panel")).exists()


def test_a_panel_is_held_from_the_first_time_that_it_is_there(path: str, bed: Bed, panels: Panels) -> None:
    assert hold_panel(path) is None
    Path(path).touch()  # left by a process that was killed
    assert hold_panel(path) is None
    made = panels.make()
    held = hold_panel(path)
    assert held is not None
    assert held.cookie == made.cookie
    assert hold_panel(path) is held
    before = descriptors()
    with open_panel(path) as one, open_panel(path, held.cookie) as other:
        assert one.cookie == other.cookie == held.cookie
        assert len({one.netns.fd, other.netns.fd, held.netns.fd}) == 3
    assert descriptors() == before
    with pytest.raises(NamespaceGoneError, match="another panel has this path now"):
        open_panel(path, held.cookie + 1)
    assert descriptors() == before


def test_a_held_panel_works_without_its_name(path: str, bed: Bed, panels: Panels) -> None:
    bed.add("pod-a")
    panel = panels.make()
    panels.cable(panel, "pod-a", "a")
    held = hold_panel(path)
    assert held is not None
    assert has_name(held)
    unname(bed)
    assert not has_name(held)
    with open_panel(path) as opened:
        assert opened.cookie == held.cookie
        assert cables_of(opened) == cables_of(panel) != []
        assert not os.get_inheritable(opened.netns.fd)
    Path(path).touch()
    assert not has_name(held)
    with open_panel(path) as opened:
        assert opened.cookie == held.cookie
    restored = panels.make(held=held)
    assert has_name(held)
    assert cables_of(restored) == cables_of(panel)


def make_panel(bed: Bed, panels: Panels) -> None:
    panels.make()


def make_namespace(bed: Bed, panels: Panels) -> None:
    bed.add("panel")


def mount_own(bed: Bed, panels: Panels) -> None:
    bed.adopt("panel")
    Path(bed.path("panel")).touch()
    subprocess.run(("mount", "--bind", "/proc/self/ns/net", bed.path("panel")), check=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (make_panel, ForeignNamespaceError, "it is not the one that this process has open"),
        (make_namespace, ForeignNamespaceError, "it is not Ratchet's"),
        (mount_own, HostNamespaceError, "it is the node's own"),
    ],
)
def test_another_namespace_under_the_name_of_a_held_panel_is_refused(
    make: Callable[[Bed, Panels], None], error: type[Exception], message: str, path: str, bed: Bed, panels: Panels
) -> None:
    panels.make()
    held = hold_panel(path)
    assert held is not None
    unname(bed)
    make(bed, panels)
    before = descriptors()
    with pytest.raises(ForeignNamespaceError, match="it is not the one that this process has open"):
        open_panel(path)
    with pytest.raises(error, match=message):
        has_name(held)
    with pytest.raises(error, match=message):
        ensure_panel(panels.lock, path, held)
    assert hold_panel(path) is held
    assert descriptors() == before
    unname(bed)
    assert not has_name(held)


def test_a_file_under_the_name_is_reported_and_the_held_panel_works(path: str, bed: Bed, panels: Panels) -> None:
    panels.make()
    held = hold_panel(path)
    assert held is not None
    unname(bed)
    Path(path).write_text("text")
    try:
        with pytest.raises(ForeignNamespaceError, match="it exists and is not a network namespace"):
            has_name(held)
        with open_panel(path) as opened:
            assert opened.cookie == held.cookie
    finally:
        Path(path).unlink()


def test_a_foreign_namespace_is_not_held(path: str, bed: Bed) -> None:
    bed.add("panel")
    before = descriptors()
    for _ in range(2):
        with pytest.raises(ForeignNamespaceError, match="it is not Ratchet's"):
            hold_panel(path)
    assert descriptors() == before
    bed.ip("panel", "link", "set", "lo", "alias", PANEL_MARK)
    held = hold_panel(path)
    assert held is not None
    assert has_name(held)


def test_a_path_that_cannot_be_looked_at_is_an_error(tmp_path: Path, bed: Bed) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatapathError, match=r"cannot look at .*/file/panel: Not a directory"):
        hold_panel(str(tmp_path / "file" / "panel"))


def test_panels_are_held_by_path(path: str, bed: Bed, panels: Panels) -> None:
    panels.make()
    held, other = hold_panel(path), panels.make("other")
    assert held is not None
    assert held.cookie != other.cookie
    with open_panel(bed.path("other")) as opened:
        assert opened.cookie == other.cookie
