"""The spool: one complete file for each DEL that no agent served, in a private, limited directory."""

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
from ratchet.agent.spool import Spool, spool_directories
from ratchet.cni.arguments import read_arguments
from ratchet.errors import InvalidEnvironmentError
from tests.shim.conftest import SPOOL_LIMIT
from tests.shim.playing import ATTACHMENT, CallResult, Node, finish_call
from tests.support.disks import BrokenDisk, small_disk
from tests.support.namespaces import may_make_namespaces

BEGAN = slice(8, 16)  # of a frame
SPOOL_FILE_MAX = 256 * 1024
NETWORK = b'{"name": "net", "cniVersion": "1.0.0"}'


def assert_not_spooled(done: CallResult, node: Node, cause: str, spool: Path | str | None = None) -> None:
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


# Spooled calls


def test_the_spool_file_is_the_frame_of_the_request(node: Node) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert node.call("DEL", NETWORK, CNI_ARGS="A=\udcff", CNI_PATH="/bin").status == 0
    after = time.clock_gettime(time.CLOCK_BOOTTIME)
    [path] = node.spooled()
    assert path.name == f"c0ffee+eth0+{fnv_1a(NETWORK):016x}"
    frame = path.read_bytes()
    variables = {"CNI_COMMAND": "DEL", **ATTACHMENT, "CNI_ARGS": "A=\udcff", "CNI_PATH": "/bin"}
    began = int.from_bytes(frame[BEGAN], "big") / 1e9
    assert before <= began <= after
    expected = encode_request(Request(variables, NETWORK, began))
    # After a hundred days of uptime a float no longer holds nanoseconds, so these bytes are compared above.
    assert frame[: BEGAN.start] + frame[BEGAN.stop :] == expected[: BEGAN.start] + expected[BEGAN.stop :]


def test_the_agent_reads_and_removes_spooled_calls(node: Node) -> None:
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
    assert node.spooled() == []


def test_only_the_owner_can_access_the_spool_and_its_files(node: Node) -> None:
    before = os.umask(0)
    try:
        node.call("DEL")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (node.spool.parent, node.spool, *node.spooled())]
    assert modes == [0o700, 0o700, 0o600]


def test_a_repeated_del_replaces_its_spool_file(node: Node) -> None:
    node.call("DEL", NETWORK)
    [first] = node.spooled()
    content = first.read_bytes()
    node.call("DEL", NETWORK, CNI_NETNS="")
    assert node.spooled() == [first]
    assert Spool(node.spool).read(first).variables["CNI_NETNS"] == ""
    assert first.read_bytes() != content


def test_each_container_interface_and_network_has_its_own_spool_file(node: Node) -> None:
    node.call("DEL", NETWORK)
    node.call("DEL", NETWORK, CNI_CONTAINERID="c0ffee2")
    node.call("DEL", NETWORK, CNI_IFNAME="eth1")
    node.call("DEL", b'{"name": "other"}')
    assert len(node.spooled()) == 4


def test_a_file_name_of_the_maximum_length_is_spooled(node: Node) -> None:
    assert node.call("DEL", CNI_CONTAINERID="c" * 200, CNI_IFNAME="+" * 15).status == 0
    assert node.spooled()[0].name.startswith("c" * 200 + "+" * 17)


def test_concurrent_dels_leave_one_spool_file_for_each_container(node: Node) -> None:
    processes = [node.start("DEL", CNI_CONTAINERID=f"c{number % 4}") for number in range(20)]
    assert {finish_call(process, b"{}").status for process in processes} == {0}
    assert [path.name.split("+")[0] for path in node.spooled()] == ["c0", "c1", "c2", "c3"]


def test_a_spool_file_is_never_visible_half_written(plain_node: Node) -> None:
    stopped = threading.Event()
    faults: list[Exception] = []

    def read_spool() -> None:
        spool = Spool(plain_node.spool)
        while not stopped.is_set():
            for path in spool.waiting():
                try:
                    spool.read(path)
                except Exception as fault:  # noqa: BLE001  # every error fails the test
                    faults.append(fault)

    reader = threading.Thread(target=read_spool)
    reader.start()
    try:
        for number in range(30):
            plain_node.call("DEL", bytes([number]) * 200_000, CNI_CONTAINERID="c1")
    finally:
        stopped.set()
        reader.join()
    assert faults == []
    assert len(plain_node.spooled()) == 30


# Calls that are not spooled


@pytest.mark.parametrize(
    "name",
    [None, "", "-c", ".c", "_c", "..", "a/b", "../x", "a b", "a\n", "a+b", "ä", "\udcff", "c" * 201, "not found"],
)
def test_an_invalid_container_id_is_code_4_and_not_spooled(name: str | None, node: Node) -> None:
    done = node.call("DEL", CNI_CONTAINERID=name)
    assert done.code == 4
    assert "CNI_CONTAINERID" in done.message
    assert node.spooled() == []
    with pytest.raises(InvalidEnvironmentError, match="CNI_CONTAINERID"):
        read_arguments(node.environment("DEL", CNI_CONTAINERID=name))


@pytest.mark.parametrize(
    "name", [None, "", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\x7f", "e" * 16, "ä" * 8, "not found"]
)
def test_an_invalid_interface_name_is_code_4_and_not_spooled(name: str | None, node: Node) -> None:
    done = node.call("DEL", CNI_IFNAME=name)
    assert done.code == 4
    assert "CNI_IFNAME" in done.message
    assert node.spooled() == []
    with pytest.raises(InvalidEnvironmentError, match="CNI_IFNAME"):
        read_arguments(node.environment("DEL", CNI_IFNAME=name))


@pytest.mark.parametrize("name", ["c", "0", "C0_.-", "a..b", "c" * 200])
def test_the_shim_and_python_accept_valid_container_ids(name: str, node: Node) -> None:
    assert node.call("DEL", CNI_CONTAINERID=name).status == 0
    assert read_arguments(node.environment("DEL", CNI_CONTAINERID=name)).container_id == name


@pytest.mark.parametrize("name", ["e", "-rf", "a+b", "...", "ä", "e" * 15, "ä" * 7])
def test_the_shim_and_python_accept_valid_interface_names(name: str, node: Node) -> None:
    assert node.call("DEL", CNI_IFNAME=name).status == 0
    assert read_arguments(node.environment("DEL", CNI_IFNAME=name)).ifname == name


def test_a_call_that_is_too_long_is_not_spooled(node: Node) -> None:
    room = SPOOL_FILE_MAX - len(encode_request(Request({"CNI_COMMAND": "DEL", **ATTACHMENT}, b"", 0)))
    assert node.call("DEL", b"x" * room).status == 0
    assert node.spooled()[0].stat().st_size == SPOOL_FILE_MAX > HEADER_BYTES
    done = node.call("DEL", b"x" * (room + 1))
    assert_not_spooled(done, node, f"the call has more than {SPOOL_FILE_MAX} bytes")
    assert len(node.spooled()) == 1


def fill_spool(spool: Path, count: int) -> None:
    spool.mkdir(parents=True, mode=0o700)
    (spool / "unreadable").mkdir()
    (spool / "unreadable" / "x").write_bytes(b"")
    for number in range(count):
        # Half of them are temporary files of killed shims, which take up space too.
        (spool / f"{'.' if number % 2 else ''}c{number}").write_bytes(b"")


@pytest.mark.parametrize("build", ["plain", "sanitised"], indirect=True)
def test_a_full_spool_accepts_only_files_that_it_has(node: Node, build: Path) -> None:
    limit = SPOOL_LIMIT if build.name == "sanitised" else 4096
    fill_spool(node.spool, limit - 1)
    assert node.call("DEL").status == 0
    assert_not_spooled(node.call("DEL", CNI_CONTAINERID="c1"), node, f"it holds {limit} files already")
    assert node.call("DEL").status == 0  # the DEL that is spooled already may be repeated
    assert len(node.spooled()) == limit + 1


# The spool directory


def parent_is_a_file(node: Node) -> str:
    node.spool.parent.write_text("")
    return "Not a directory"


def spool_is_a_file(node: Node) -> str:
    node.spool.parent.mkdir()
    node.spool.write_text("")
    return "Not a directory"


def spool_is_a_symlink(node: Node) -> str:
    (node.folder / "real").mkdir(mode=0o700)
    node.spool.parent.mkdir()
    node.spool.symlink_to(node.folder / "real")
    return "Not a directory"


def spool_is_a_dangling_symlink(node: Node) -> str:
    node.spool.parent.mkdir()
    node.spool.symlink_to(node.folder / "gone")
    return "Not a directory"


def group_writable(node: Node) -> str:
    node.spool.mkdir(parents=True)
    node.spool.chmod(0o770)
    return "others may write there"


def world_writable(node: Node) -> str:
    node.spool.mkdir(parents=True)
    node.spool.chmod(0o1777)
    return "others may write there"


@pytest.mark.parametrize(
    "spoil",
    [
        parent_is_a_file,
        spool_is_a_file,
        spool_is_a_symlink,
        spool_is_a_dangling_symlink,
        group_writable,
        world_writable,
    ],
)
def test_an_unusable_spool_directory_fails_del_and_is_not_changed(spoil: Callable[[Node], str], node: Node) -> None:
    cause = spoil(node)
    before = sorted(node.folder.rglob("*"))
    assert_not_spooled(node.call("DEL"), node, cause)
    assert sorted(node.folder.rglob("*")) == before


def test_a_trailing_slash_does_not_follow_a_symlink(node: Node) -> None:
    cause = spool_is_a_symlink(node)
    path = f"{node.spool}//"
    assert_not_spooled(node.call("DEL", RATCHET_AGENT_SPOOL=path), node, cause, path)
    assert list((node.folder / "real").iterdir()) == []


def test_a_spool_of_another_user_fails_del(node: Node, tmp_path: Path) -> None:
    foreign = Path("/")
    if foreign.stat().st_uid == os.geteuid():
        foreign = tmp_path / "foreign"
        foreign.mkdir(mode=0o700)
        os.chown(foreign, 65534, 65534)
    done = node.call("DEL", RATCHET_AGENT_SPOOL=str(foreign))
    assert_not_spooled(done, node, "it belongs to somebody else", foreign)


def test_a_spool_that_cannot_be_created_fails_del(node: Node) -> None:
    spool = Path("/proc/self/spool")
    assert_not_spooled(node.call("DEL", RATCHET_AGENT_SPOOL=str(spool)), node, "No such file or directory", spool)


def test_a_spool_path_that_is_too_long_fails_del(node: Node) -> None:
    done = node.call("DEL", RATCHET_AGENT_SPOOL="/x" * 3000)
    assert done.code == 11
    assert done.message.endswith(f"cannot keep the DEL in {'/x' * 128}...: {os.strerror(errno.ENAMETOOLONG)}")


def test_a_failed_write_fails_del_and_leaves_no_file(node: Node) -> None:
    # A file size limit of 0 makes each write fail like a full disk. The signal of the limit is ignored.
    node.before = ("sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\"")
    assert_not_spooled(node.call("DEL"), node, "File too large")
    assert node.spooled() == []


@pytest.mark.skipif(not may_make_namespaces(), reason="needs root, to mount a file system")
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_del_is_kept_beside_the_socket_if_the_disk_rejects_it(node: Node, kind: str) -> None:
    """Also if the spool exists already. The agent reads both directories."""
    beside = node.socket.with_name("spool")
    node.spool.parent.mkdir(mode=0o700)
    with small_disk(node.spool.parent) as folder:
        assert node.call("DEL", NETWORK, CNI_CONTAINERID="before").status == 0
        BrokenDisk(folder, kind).break_down()
        done = node.call("DEL", NETWORK)
        assert (done.status, done.stdout) == (0, b"")
        assert b"the DEL is kept until it is back" in done.stderr
        assert [path.name.split("+")[0] for path in node.spooled()] == ["before"]
        first, second = (Spool(one) for one in spool_directories(str(node.spool), str(node.socket)))
        assert len(first.waiting()) == 1
        [path] = second.waiting()
        assert path.parent == beside
        assert second.read(path).variables == {"CNI_COMMAND": "DEL", **ATTACHMENT}
    assert stat.S_IMODE(beside.stat().st_mode) == 0o700


def test_a_symlink_at_the_file_name_is_replaced_and_not_followed(node: Node) -> None:
    node.call("DEL")
    [path] = node.spooled()
    path.unlink()
    (node.folder / "target").write_text("untouched")
    path.symlink_to(node.folder / "target")
    assert node.call("DEL").status == 0
    assert path.is_file() and not path.is_symlink()
    assert (node.folder / "target").read_text() == "untouched"


def test_a_relative_spool_path_is_created_in_the_working_directory(node: Node) -> None:
    node.before = ("sh", "-c", f'cd "{node.folder}" && exec "$0"')
    assert node.call("DEL", RATCHET_AGENT_SPOOL="a/b").status == 0
    assert len(list((node.folder / "a" / "b").iterdir())) == 1
