from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from errno import EPERM
from pathlib import Path

import pytest

from ratchet.core.panel import PANEL_MARK
from ratchet.datapath import sysctl
from ratchet.datapath.identity import netns_cookie
from ratchet.datapath.panel import namespace
from ratchet.datapath.panel.cables import cables_of
from ratchet.datapath.panel.namespace import ensure_panel, open_panel
from ratchet.dev.testbed import wait_for
from ratchet.errors import DatapathError, ForeignNamespaceError, HostNamespaceError, NamespaceGoneError
from tests.support.namespaces import Bed
from tests.support.panels import Panels

PROCESSES = 8
MAKE = """
import sys
from ratchet.datapath.panel.namespace import ensure_panel
with ensure_panel(*sys.argv[1:]) as panel:
    print(panel.cookie)
"""


def _mounts(path: str) -> int:
    return sum(line.split()[4] == path for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _sysctl(bed: Bed, name: str) -> str:
    return bed.run("panel", "cat", f"/proc/sys/net/{name}").strip()


def test_a_panel_is_marked_and_has_neither_ipv6_nor_forwarding(bed: Bed, panels: Panels) -> None:
    panel = panels.make()
    assert panel.cookie == netns_cookie(bed.path("panel"))
    assert json.loads(bed.ip("panel", "-j", "link", "show", "lo"))[0]["ifalias"] == PANEL_MARK
    for scope in ("all", "default", "lo"):
        assert _sysctl(bed, f"ipv6/conf/{scope}/disable_ipv6") == "1"
    assert _sysctl(bed, "ipv4/ip_forward") == "0"
    assert bed.interfaces("panel") == []


def test_forwarding_that_a_panel_inherits_from_the_node_is_disabled(bed: Bed) -> None:
    bed.add("panel")
    bed.run("panel", "sysctl", "-q", "net.ipv4.ip_forward=1")
    with bed.inside("panel"):
        sysctl.disable_ipv6_and_forwarding()
    assert _sysctl(bed, "ipv4/ip_forward") == "0"


def test_an_existing_panel_is_opened(bed: Bed, panels: Panels) -> None:
    cookie = panels.make().cookie
    assert panels.make().cookie == cookie
    with open_panel(bed.path("panel"), cookie) as again:
        assert again.cookie == cookie
    with pytest.raises(NamespaceGoneError, match="another panel has this path now"):
        open_panel(bed.path("panel"), cookie + 1)
    assert _mounts(bed.path("panel")) == 1


def test_the_thread_that_makes_a_panel_stays_where_it_is(bed: Bed, panels: Panels) -> None:
    bed.add("node")
    with bed.inside("node"):
        before = Path("/proc/thread-self/ns/net").stat().st_ino
        panels.make()
        assert Path("/proc/thread-self/ns/net").stat().st_ino == before


def test_processes_that_make_the_panel_at_once_make_one(bed: Bed, panels: Panels) -> None:
    """All of them find no panel and wait for the lock, which the test holds until then."""
    bed.adopt("panel")
    folder = os.open(panels.lock, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    command = (sys.executable, "-c", MAKE, panels.lock, bed.path("panel"))
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    try:
        waiting = f":{Path(panels.lock).stat().st_ino} "
        wait_for("the lock's waiters", lambda: _locks("->", waiting) == PROCESSES, 60)
        assert not Path(bed.path("panel")).exists()
    finally:
        os.close(folder)
        cookies = [process.communicate()[0] for process in started]
    assert cookies == [f"{netns_cookie(bed.path('panel'))}\n"] * PROCESSES
    assert _mounts(bed.path("panel")) == 1


def _locks(*words: str) -> int:
    return sum(all(word in line for word in words) for line in Path("/proc/locks").read_text().splitlines())


def test_the_empty_file_of_a_killed_process_is_replaced(bed: Bed, panels: Panels) -> None:
    Path(bed.path("panel")).touch(0o444)
    with pytest.raises(NamespaceGoneError, match="not a network namespace"):
        open_panel(bed.path("panel"))
    assert panels.make().cookie == netns_cookie(bed.path("panel"))


@pytest.mark.parametrize("kind", ["text", "folder", "symlink", "fifo", "other namespace"])
def test_anything_else_than_a_namespace_is_refused_and_left(
    kind: str, bed: Bed, panels: Panels, tmp_path: Path
) -> None:
    bed.add("pod-a")
    path = tmp_path / "panel"
    match kind:
        case "text":
            path.write_text("text")
        case "folder":
            path.mkdir()
        case "symlink":
            path.symlink_to(tmp_path / "absent")
        case "fifo":
            os.mkfifo(path)
        case "other namespace":
            path.touch()
            subprocess.run(("mount", "--bind", "/proc/self/ns/uts", str(path)), check=True)
    try:
        before = os.lstat(path)
        with pytest.raises(ForeignNamespaceError, match="it exists and is not a network namespace"):
            ensure_panel(panels.lock, str(path))
        assert os.lstat(path) == before
        assert not (tmp_path / "absent").exists()
    finally:
        if kind == "other namespace":
            subprocess.run(("umount", str(path)), check=True)


def test_a_namespace_without_the_mark_is_refused(bed: Bed, panels: Panels) -> None:
    bed.add("stranger")
    with pytest.raises(ForeignNamespaceError, match="it is not Ratchet's"):
        open_panel(bed.path("stranger"))
    with pytest.raises(ForeignNamespaceError, match="it is not Ratchet's"):
        ensure_panel(panels.lock, bed.path("stranger"))
    bed.ip("stranger", "link", "set", "lo", "alias", "another")
    with pytest.raises(ForeignNamespaceError, match="it is not Ratchet's"):
        open_panel(bed.path("stranger"))


def test_the_namespace_of_the_node_is_refused_even_with_the_mark(bed: Bed, panels: Panels) -> None:
    bed.add("node")
    bed.ip("node", "link", "set", "lo", "alias", PANEL_MARK)
    with bed.inside("node"), pytest.raises(HostNamespaceError, match="it is the node's own"):
        ensure_panel(panels.lock, bed.path("node"))


def test_a_lost_name_is_given_back_with_every_interface(bed: Bed, panels: Panels) -> None:
    bed.add("pod-a")
    panel = panels.make()
    panels.cable(panel, "pod-a", "a")
    cables, pod = cables_of(panel), bed.show("pod-a", "eth1")
    bed.delete("panel")
    assert not Path(bed.path("panel")).exists()
    restored = panels.make(held=panel)
    assert restored.cookie == panel.cookie
    assert cables_of(restored) == cables != []
    assert bed.show("pod-a", "eth1") == pod


def test_another_panel_under_the_name_of_an_open_one_is_refused(bed: Bed, panels: Panels) -> None:
    panel = panels.make()
    bed.delete("panel")
    other = panels.make()
    assert other.cookie != panel.cookie
    with pytest.raises(ForeignNamespaceError, match="it is not the one that this process has open"):
        panels.make(held=panel)


def test_a_panel_that_cannot_be_made_leaves_no_file(bed: Bed, panels: Panels, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(EPERM, "Operation not permitted")

    monkeypatch.setattr(namespace, "_bind", refuse)
    with pytest.raises(DatapathError, match=r"cannot make patch panel .*: Operation not permitted"):
        ensure_panel(panels.lock, bed.path("panel"))
    assert not Path(bed.path("panel")).exists()


def test_a_folder_that_cannot_be_locked_is_an_error(bed: Bed, tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match=r"cannot lock .*: No such file or directory"):
        ensure_panel(str(tmp_path / "absent"), bed.path("panel"))
    assert not Path(bed.path("panel")).exists()
