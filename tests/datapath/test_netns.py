from __future__ import annotations

import faulthandler
import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from ratchet.core.interface import VethWire
from ratchet.core.sandbox import Location
from ratchet.datapath import ensure, is_host, namespace_is_there, netns, observe_port, open_netns, remove, unplug
from ratchet.errors import DatapathError, HostNamespaceError, NamespaceGoneError
from tests.support.namespaces import Bed
from tests.support.wires import Wires


def _current_netns() -> int:
    return Path(netns.OWN).stat().st_ino


def test_a_missing_path_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    with pytest.raises(NamespaceGoneError, match=f"cannot open network namespace {path}: No such file or directory"):
        open_netns(str(path))
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "device", "other namespace", "NUL"])
def test_a_path_to_anything_but_a_netns_is_an_error(kind: str, tmp_path: Path) -> None:
    path = str(tmp_path / "it")
    match kind:
        case "file":
            Path(path).write_text("")
        case "directory":
            Path(path).mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = "/dev/null"
        case "other namespace":
            path = "/proc/self/ns/uts"
        case "NUL":
            path += "\0"
    with pytest.raises(NamespaceGoneError, match="cannot open network namespace"):
        open_netns(path)
    assert namespace_is_there(Location(path)) is False


def test_namespace_is_there_needs_a_path_to_an_existing_netns(pods: Bed) -> None:
    assert namespace_is_there(Location(pods.path("pod-a"))) is True
    with open_netns(pods.path("pod-a")) as pod:
        pods.delete("pod-a")
        assert namespace_is_there(Location(pods.path("pod-a"))) is False
        assert namespace_is_there(Location(f"/proc/self/fd/{pod.fd}")) is True
    assert namespace_is_there(Location(pods.path("pod-b"))) is True
    assert namespace_is_there(Location("")) is False


def test_a_symlink_to_a_netns_is_followed(pods: Bed, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pods.path("pod-a"))
    assert namespace_is_there(Location(str(link))) is True
    pods.delete("pod-a")
    assert namespace_is_there(Location(str(link))) is False


def test_too_many_open_files_is_not_reported_as_a_missing_netns(pods: Bed) -> None:
    """Otherwise DEL would succeed without removing the interface."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.open("/dev/null", os.O_RDONLY)
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
    try:
        with pytest.raises(DatapathError, match="Too many open files") as caught:
            remove(Location(pods.path("pod-a")), "in1")
        assert namespace_is_there(Location(pods.path("pod-a"))) is True
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not isinstance(caught.value, NamespaceGoneError)


def test_every_operation_rejects_the_netns_of_the_node(bed: Bed, wires: Wires) -> None:
    bed.add("pod-a", "node")
    wire = wires.veth(far="node")
    with bed.inside("node"):
        with open_netns(bed.path("node")) as node, open_netns(bed.path("pod-a")) as pod:
            assert (is_host(node), is_host(pod)) == (True, False)
        for operation in (
            lambda: ensure(wire),
            lambda: ensure(VethWire("a-b", wire.far, wire.near)),
            lambda: remove(Location(bed.path("node")), "lo"),
            lambda: unplug(Location(bed.path("node")), "lo"),
            lambda: observe_port(Location("/proc/thread-self/ns/net"), "lo"),
        ):
            with pytest.raises(HostNamespaceError, match="it is the node's own"):
                operation()
    assert (bed.interfaces("node"), bed.interfaces("pod-a")) == ([], [])


def test_the_path_of_a_descriptor_is_accepted(pods: Bed, wires: Wires) -> None:
    """The runtime may pass /proc/self/fd/N after the mounted path is gone."""
    with open_netns(pods.path("pod-a")) as pod:
        pods.ip("pod-a", "link", "add", "in1", "type", "vxlan", "id", "5", "dstport", "4789", "dev", "lo")
        pods.delete("pod-a")
        device = observe_port(Location(f"/proc/self/fd/{pod.fd}"), "in1")
    assert device is not None
    assert (device.kind, device.vni, device.ours) == ("vxlan", 5, False)


def test_inside_switches_only_the_calling_thread(pods: Bed) -> None:
    original = _current_netns()
    ask, answered = threading.Event(), threading.Event()
    seen: list[int] = []

    def bystander() -> None:
        ask.wait(10)
        seen.append(_current_netns())
        answered.set()

    other = threading.Thread(target=bystander)
    other.start()
    with open_netns(pods.path("pod-a")) as pod, netns.inside(pod):
        assert _current_netns() == pod.identity[1] != original
        ask.set()
        assert answered.wait(10)
    other.join()
    assert seen == [original]
    assert _current_netns() == original


def test_inside_restores_the_netns_after_an_error(pods: Bed) -> None:
    original = _current_netns()
    with pytest.raises(LookupError), open_netns(pods.path("pod-a")) as pod, netns.inside(pod):
        raise LookupError
    assert _current_netns() == original


def test_a_thread_that_cannot_leave_a_netns_aborts_the_process(pods: Bed) -> None:
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        calls = iter([netns._setns])

        def fail_on_return(fd: int) -> None:
            setns = next(calls, None)
            if setns is None:
                raise OSError(1, "no way back")
            setns(fd)

        vars(netns)["_setns"] = fail_on_return
        with open_netns(pods.path("pod-a")) as pod, netns.inside(pod):
            pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGABRT
