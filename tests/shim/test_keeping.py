"""The spool: a DEL that no agent took is one whole file, in a place that is ours alone, and there is an end to it."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ratchet.agent.frame import HEADER_BYTES, Request, encode_request
from ratchet.agent.spool import Spool
from ratchet.cni.arguments import read_arguments
from ratchet.errors import InvalidEnvironmentError
from tests.shim.conftest import FEW
from tests.shim.playing import ATTACHMENT, Done, Node, finished

BEGAN = slice(8, 16)  # of a frame
SPOOL_FILE_MAX = 256 * 1024
NETWORK = b'{"name": "net", "cniVersion": "1.0.0"}'


def expect_refusal(done: Done, node: Node, cause: str, spool: Path | str | None = None) -> None:
    assert done.code == 11
    assert done.message == (
        f"cannot reach the node agent at {node.socket}: No such file or directory; "
        f"cannot keep the DEL in {spool or node.spool}: {cause}"
    )


def fnv_1a(content: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


# What is kept


def test_the_file_is_the_frame_of_the_request(node: Node) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert node.call("DEL", NETWORK, CNI_ARGS="A=\udcff", CNI_PATH="/bin").status == 0
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    [path] = node.kept()
    assert path.name == f"c0ffee+eth0+{fnv_1a(NETWORK):016x}"
    frame = path.read_bytes()
    variables = {"CNI_COMMAND": "DEL", **ATTACHMENT, "CNI_ARGS": "A=\udcff", "CNI_PATH": "/bin"}
    began = int.from_bytes(frame[BEGAN], "big") / 1e9
    assert before <= began <= after
    expected = encode_request(Request(variables, NETWORK, began))
    # A float holds nanoseconds of the first hundred days of a machine and no longer; these bytes have been looked at.
    assert frame[: BEGAN.start] + frame[BEGAN.stop :] == expected[: BEGAN.start] + expected[BEGAN.stop :]


def test_the_agent_reads_it(node: Node) -> None:
    node.call("DEL", NETWORK, CNI_CONTAINERID="c1")
    node.call("DEL", NETWORK, CNI_CONTAINERID="c0", CNI_NETNS=None)
    spool = Spool(node.spool)
    requests = [spool.read(path) for path in spool.waiting()]
    assert [request.variables for request in requests] == [
        {"CNI_COMMAND": "DEL", **ATTACHMENT, "CNI_CONTAINERID": "c1"},
        {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c0", "CNI_IFNAME": "eth0"},
    ]
    assert {request.stdin for request in requests} == {NETWORK}
    for path in spool.waiting():
        spool.done(path)
    assert node.kept() == []


def test_it_is_for_its_owner_alone_and_so_are_the_folders_that_were_made(node: Node) -> None:
    before = os.umask(0)
    try:
        node.call("DEL")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (node.spool.parent, node.spool, *node.kept())]
    assert modes == [0o700, 0o700, 0o600]


def test_the_same_delete_again_takes_the_place_of_the_first(node: Node) -> None:
    node.call("DEL", NETWORK)
    [first] = node.kept()
    content = first.read_bytes()
    node.call("DEL", NETWORK, CNI_NETNS="")
    assert node.kept() == [first]
    assert Spool(node.spool).read(first).variables["CNI_NETNS"] == ""
    assert first.read_bytes() != content


def test_another_container_interface_or_network_has_a_file_of_its_own(node: Node) -> None:
    node.call("DEL", NETWORK)
    node.call("DEL", NETWORK, CNI_CONTAINERID="c0ffee2")
    node.call("DEL", NETWORK, CNI_IFNAME="eth1")
    node.call("DEL", b'{"name": "other"}')
    assert len(node.kept()) == 4


def test_the_longest_name_there_can_be(node: Node) -> None:
    assert node.call("DEL", CNI_CONTAINERID="c" * 200, CNI_IFNAME="+" * 15).status == 0
    assert node.kept()[0].name.startswith("c" * 200 + "+" * 17)


def test_many_at_once_are_all_kept(node: Node) -> None:
    processes = [node.start("DEL", CNI_CONTAINERID=f"c{number % 4}") for number in range(20)]
    assert {finished(process, b"{}").status for process in processes} == {0}
    assert [path.name.split("+")[0] for path in node.kept()] == ["c0", "c1", "c2", "c3"]


def test_nobody_sees_half_a_file(plain_node: Node) -> None:
    over = threading.Event()
    faults: list[Exception] = []

    def look() -> None:
        spool = Spool(plain_node.spool)
        while not over.is_set():
            for path in spool.waiting():
                try:
                    spool.read(path)
                except Exception as fault:  # noqa: BLE001  # any is one too many
                    faults.append(fault)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for number in range(30):
            plain_node.call("DEL", bytes([number]) * 200_000, CNI_CONTAINERID="c1")
    finally:
        over.set()
        looker.join()
    assert faults == []
    assert len(plain_node.kept()) == 30


# What is not


@pytest.mark.parametrize(
    "name",
    [None, "", "-c", ".c", "_c", "..", "a/b", "../x", "a b", "a\n", "a+b", "ä", "\udcff", "c" * 201, "not found"],
)
def test_a_container_id_that_would_be_no_file_name(name: str | None, node: Node) -> None:
    done = node.call("DEL", CNI_CONTAINERID=name)
    assert done.code == 4
    assert "CNI_CONTAINERID" in done.message
    assert node.kept() == []
    with pytest.raises(InvalidEnvironmentError, match="CNI_CONTAINERID"):
        read_arguments(node.environment("DEL", CNI_CONTAINERID=name))


@pytest.mark.parametrize(
    "name", [None, "", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\x7f", "e" * 16, "ä" * 8, "not found"]
)
def test_an_interface_name_that_would_be_no_file_name(name: str | None, node: Node) -> None:
    done = node.call("DEL", CNI_IFNAME=name)
    assert done.code == 4
    assert "CNI_IFNAME" in done.message
    assert node.kept() == []
    with pytest.raises(InvalidEnvironmentError, match="CNI_IFNAME"):
        read_arguments(node.environment("DEL", CNI_IFNAME=name))


@pytest.mark.parametrize("name", ["c", "0", "C0_.-", "a..b", "c" * 200])
def test_a_container_id_as_the_specification_has_it(name: str, node: Node) -> None:
    assert node.call("DEL", CNI_CONTAINERID=name).status == 0
    assert read_arguments(node.environment("DEL", CNI_CONTAINERID=name)).container_id == name


@pytest.mark.parametrize("name", ["e", "-rf", "a+b", "...", "ä", "e" * 15, "ä" * 7])
def test_an_interface_name_as_the_kernel_has_it(name: str, node: Node) -> None:
    assert node.call("DEL", CNI_IFNAME=name).status == 0
    assert read_arguments(node.environment("DEL", CNI_IFNAME=name)).ifname == name


def test_a_call_that_is_too_long_to_keep(node: Node) -> None:
    room = SPOOL_FILE_MAX - len(encode_request(Request({"CNI_COMMAND": "DEL", **ATTACHMENT}, b"", 0)))
    assert node.call("DEL", b"x" * room).status == 0
    assert node.kept()[0].stat().st_size == SPOOL_FILE_MAX > HEADER_BYTES
    done = node.call("DEL", b"x" * (room + 1))
    expect_refusal(done, node, f"the call has more than {SPOOL_FILE_MAX} bytes")
    assert len(node.kept()) == 1


def fill(spool: Path, count: int) -> None:
    spool.mkdir(parents=True, mode=0o700)
    (spool / "unreadable").mkdir()
    (spool / "unreadable" / "x").write_bytes(b"")
    for number in range(count):
        # Half of them as killed shims leave them: the disk knows no difference.
        (spool / f"{'.' if number % 2 else ''}c{number}").write_bytes(b"")


@pytest.mark.parametrize("build", ["plain", "sanitised"], indirect=True)
def test_a_spool_that_is_full_takes_nothing_new(node: Node, build: Path) -> None:
    most = FEW if build.name == "sanitised" else 4096
    fill(node.spool, most - 1)
    assert node.call("DEL").status == 0
    expect_refusal(node.call("DEL", CNI_CONTAINERID="c1"), node, f"it holds {most} files already")
    assert node.call("DEL").status == 0  # the one that is there may come again
    assert len(node.kept()) == most + 1


# Where it is kept


def beneath_a_file(node: Node) -> str:
    node.spool.parent.write_text("")
    return "Not a directory"


def a_file(node: Node) -> str:
    node.spool.parent.mkdir()
    node.spool.write_text("")
    return "Not a directory"


def a_link(node: Node) -> str:
    (node.folder / "real").mkdir(mode=0o700)
    node.spool.parent.mkdir()
    node.spool.symlink_to(node.folder / "real")
    return "Not a directory"


def a_dangling_link(node: Node) -> str:
    node.spool.parent.mkdir()
    node.spool.symlink_to(node.folder / "gone")
    return "Not a directory"


def where_the_group_may_write(node: Node) -> str:
    node.spool.mkdir(parents=True)
    node.spool.chmod(0o770)
    return "others may write there"


def where_all_may_write(node: Node) -> str:
    node.spool.mkdir(parents=True)
    node.spool.chmod(0o1777)
    return "others may write there"


@pytest.mark.parametrize(
    "spoil", [beneath_a_file, a_file, a_link, a_dangling_link, where_the_group_may_write, where_all_may_write]
)
def test_a_place_that_will_not_do_is_an_error_and_no_lie(spoil: Callable[[Node], str], node: Node) -> None:
    cause = spoil(node)
    before = sorted(node.folder.rglob("*"))
    expect_refusal(node.call("DEL"), node, cause)
    assert sorted(node.folder.rglob("*")) == before


def test_a_slash_behind_a_link_does_not_lead_through_it(node: Node) -> None:
    cause = a_link(node)
    path = f"{node.spool}//"
    expect_refusal(node.call("DEL", RATCHET_AGENT_SPOOL=path), node, cause, path)
    assert list((node.folder / "real").iterdir()) == []


def test_a_place_that_belongs_to_somebody_else(node: Node, tmp_path: Path) -> None:
    foreign = Path("/")
    if foreign.stat().st_uid == os.geteuid():
        foreign = tmp_path / "foreign"
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 65534, 65534)
    done = node.call("DEL", RATCHET_AGENT_SPOOL=str(foreign))
    expect_refusal(done, node, "it belongs to somebody else", foreign)


def test_a_place_that_cannot_be_made(node: Node) -> None:
    spool = Path("/proc/self/spool")
    expect_refusal(node.call("DEL", RATCHET_AGENT_SPOOL=str(spool)), node, "No such file or directory", spool)


def test_a_path_that_is_too_long(node: Node) -> None:
    done = node.call("DEL", RATCHET_AGENT_SPOOL="/x" * 3000)
    assert done.code == 11
    assert done.message.endswith(f"cannot keep the DEL in {'/x' * 128}...: {os.strerror(errno.ENAMETOOLONG)}")


def test_a_disk_that_is_full(node: Node) -> None:
    # With no room for a file of any length, as a shell's limit on the size of files has it; its signal is ignored.
    node.before = ("sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\"")
    expect_refusal(node.call("DEL"), node, "File too large")
    assert node.kept() == []


def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(node: Node) -> None:
    node.call("DEL")
    [path] = node.kept()
    path.unlink()
    (node.folder / "target").write_text("untouched")
    path.symlink_to(node.folder / "target")
    assert node.call("DEL").status == 0
    assert path.is_file() and not path.is_symlink()
    assert (node.folder / "target").read_text() == "untouched"


def test_a_relative_path_is_made_where_the_shim_runs(node: Node) -> None:
    node.before = ("sh", "-c", f'cd "{node.folder}" && exec "$0"')
    assert node.call("DEL", RATCHET_AGENT_SPOOL="a/b").status == 0
    assert len(list((node.folder / "a" / "b").iterdir())) == 1
