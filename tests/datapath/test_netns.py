from __future__ import annotations

import faulthandler
import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from ratchet.core.interface import VethWire
from ratchet.core.model import Location
from ratchet.datapath import ensure, is_host, namespace_is_there, netns, observe_port, open_netns, remove, unplug
from ratchet.errors import DatapathError, HostNamespaceError, NamespaceGoneError
from tests.support.namespaces import Bed
from tests.support.wires import Wires


def _own() -> int:
    return Path(netns.OWN).stat().st_ino


def test_a_missing_path_is_a_namespace_gone_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    with pytest.raises(NamespaceGoneError, match=f"cannot open network namespace {path}: No such file or directory"):
        open_netns(str(path))
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "device", "other namespace", "NUL"])
def test_what_is_no_network_namespace_is_refused(kind: str, tmp_path: Path) -> None:
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


def test_whether_a_namespace_is_there(pods: Bed) -> None:
    assert namespace_is_there(Location(pods.path("pod-a"))) is True
    with open_netns(pods.path("pod-a")) as pod:
        pods.delete("pod-a")
        assert namespace_is_there(Location(pods.path("pod-a"))) is False
        assert namespace_is_there(Location(f"/proc/self/fd/{pod.fd}")) is True
    assert namespace_is_there(Location(pods.path("pod-b"))) is True
    assert namespace_is_there(Location("")) is False


def test_a_link_to_a_namespace_is_followed(pods: Bed, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(pods.path("pod-a"))
    assert namespace_is_there(Location(str(link))) is True
    pods.delete("pod-a")
    assert namespace_is_there(Location(str(link))) is False


def test_a_process_out_of_descriptors_does_not_take_a_namespace_for_gone(pods: Bed) -> None:
    """DEL would answer that the pod is gone, and leave its interface."""
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


def test_the_nodes_own_namespace_is_refused_by_every_act(bed: Bed, wires: Wires) -> None:
    bed.add("pod-a", "node")
    wire = wires.veth(far="node")
    with bed.inside("node"):
        with open_netns(bed.path("node")) as node, open_netns(bed.path("pod-a")) as pod:
            assert (is_host(node), is_host(pod)) == (True, False)
        for act in (
            lambda: ensure(wire),
            lambda: ensure(VethWire("a-b", wire.far, wire.near)),
            lambda: remove(Location(bed.path("node")), "lo"),
            lambda: unplug(Location(bed.path("node")), "lo"),
            lambda: observe_port(Location("/proc/thread-self/ns/net"), "lo"),
        ):
            with pytest.raises(HostNamespaceError, match="it is the node's own"):
                act()
    assert (bed.interfaces("node"), bed.interfaces("pod-a")) == ([], [])


def test_a_descriptors_path_is_as_good_as_any(pods: Bed, wires: Wires) -> None:
    """The runtime may hand over /proc/self/fd/N, and the name may be gone by then."""
    with open_netns(pods.path("pod-a")) as pod:
        pods.ip("pod-a", "link", "add", "in1", "type", "vxlan", "id", "5", "dstport", "4789", "dev", "lo")
        device = observe_port(Location(f"/proc/self/fd/{pod.fd}"), "in1")
    assert device is not None
    assert (device.kind, device.vni, device.ours) == ("vxlan", 5, False)


def test_only_the_calling_thread_goes_inside(pods: Bed) -> None:
    home = _own()
    ask, answered = threading.Event(), threading.Event()
    seen: list[int] = []

    def bystander() -> None:
        ask.wait(10)
        seen.append(_own())
        answered.set()

    other = threading.Thread(target=bystander)
    other.start()
    with open_netns(pods.path("pod-a")) as pod, netns.inside(pod):
        assert _own() == pod.identity[1] != home
        ask.set()
        assert answered.wait(10)
    other.join()
    assert seen == [home]
    assert _own() == home


def test_an_error_inside_leads_home(pods: Bed) -> None:
    home = _own()
    with pytest.raises(LookupError), open_netns(pods.path("pod-a")) as pod, netns.inside(pod):
        raise LookupError
    assert _own() == home


def test_a_thread_that_cannot_come_back_ends_the_process(pods: Bed) -> None:
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ways = iter([netns._setns])

        def fail_on_return(fd: int) -> None:
            way = next(ways, None)
            if way is None:
                raise OSError(1, "no way back")
            way(fd)

        vars(netns)["_setns"] = fail_on_return
        with open_netns(pods.path("pod-a")) as pod, netns.inside(pod):
            pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGABRT
