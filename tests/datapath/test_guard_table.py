"""The table of the tunnel guard: when it has a tunnel, and how it is repaired and rebuilt."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ratchet.core.differences import differences
from ratchet.core.sandbox import Location
from ratchet.core.tunnel_guard import GuardedTunnel
from ratchet.datapath import ensure, guard_state, make, nftables, observe, remove, tunnel_guard
from ratchet.datapath.guard_elements import peer_key, tunnel_key
from ratchet.datapath.guard_rules import PEERS4, TABLE, TUNNELS
from ratchet.datapath.nftables import (
    DELTABLE,
    TABLE_NAME,
    Element,
    Nftables,
    add_elements,
    delete_element,
    request,
    text,
)
from tests.support.frames import received_frames
from tests.support.guarded_link import FAMILIES, ONE, ONE6, THREE, TWO, TWO6, link_pods
from tests.support.namespaces import Bed
from tests.support.packets import PORT, VNI, send_udp, vxlan
from tests.support.wires import Wires

pytestmark = pytest.mark.usefixtures("has_nftables")


def _table(bed: Bed, node: str = "node-1") -> tuple[set[tuple[int, int, str]], set[tuple[str, int, int]]]:
    """The tunnels in a node's table, and the peers."""
    with bed.inside(node):
        table = tunnel_guard.read_table()
    return {(one.port, one.vni, one.peer) for one in table.tunnels}, set(table.peers)


@FAMILIES
def test_the_table_has_a_tunnel_from_creation_to_removal(
    one: str, two: str, three: str, underlay: Bed, wires: Wires
) -> None:
    with underlay.inside("node-1"):
        wire = wires.tunnel("pod-a", 0, one, two)
        assert differences(wire, make(wire)) == ()
        near = observe(wire).near
        assert near is not None and near.guarded is True
    assert _table(underlay) == ({(PORT, VNI, two)}, {(two, PORT, VNI)})
    with underlay.inside("node-1"):
        (tunnel,) = tunnel_guard.read_table().tunnels
        assert (tunnel.link, tunnel.owner.endswith(f"/{near.index}")) == ("a-b", True)
        assert remove(Location(wire.near.netns), "in1") is True
    assert _table(underlay) == (set(), set())


def test_the_table_follows_the_vtep_of_the_peer(underlay: Bed, wires: Wires) -> None:
    wire = link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        assert ensure(replace(wire, remote=THREE)) is True
    assert _table(underlay) == ({(PORT, VNI, THREE)}, {(THREE, PORT, VNI)})
    with underlay.inside("node-1"):
        assert ensure(replace(wire, remote=TWO6, local=ONE6)) is True
    assert _table(underlay) == ({(PORT, VNI, TWO6)}, {(TWO6, PORT, VNI)})


def test_the_table_follows_a_change_of_vni_and_port(underlay: Bed, wires: Wires) -> None:
    wire = link_pods(underlay, wires, ONE, TWO)
    for changed in (replace(wire, vni=12), replace(wire, vni=12, port=8472, remote_port=8472)):
        with underlay.inside("node-1"):
            assert ensure(changed) is True
        assert _table(underlay) == ({(changed.port, 12, TWO)}, {(TWO, changed.port, 12)})


def test_the_table_loses_a_tunnel_that_a_veth_replaces(underlay: Bed, wires: Wires) -> None:
    link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        ensure(wires.veth("pod-a", "pod-b"))
    assert _table(underlay) == (set(), set())


def _without_tunnel(channel: Nftables) -> None:
    channel.transact([delete_element(TABLE, TUNNELS, tunnel_key(PORT, VNI))])


def _without_peer(channel: Nftables) -> None:
    channel.transact([delete_element(TABLE, PEERS4, peer_key(TWO, PORT, VNI))])


def _without_table(channel: Nftables) -> None:
    channel.transact([request(DELTABLE, 0, text(TABLE_NAME, TABLE))])


def _with_empty_table(channel: Nftables) -> None:
    _without_table(channel)
    channel.transact([request(nftables.NEWTABLE, nftables.NLM_F_CREATE, text(TABLE_NAME, TABLE))])


@pytest.mark.parametrize("damage", [_without_tunnel, _without_peer, _without_table, _with_empty_table])
def test_ensure_repairs_the_guard_of_its_tunnel(
    damage: Callable[[Nftables], None], underlay: Bed, wires: Wires
) -> None:
    wire = link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        with Nftables() as channel:
            damage(channel)
        assert differences(wire, observe(wire)) == ("in1 takes datagrams from anywhere",)
        assert ensure(wire) is True
        assert ensure(wire) is False
    assert _table(underlay) == ({(PORT, VNI, TWO)}, {(TWO, PORT, VNI)})
    with received_frames(underlay, "pod-a") as frames:
        send_udp(underlay, "node-3", ONE, vxlan(b"forged"))
        assert underlay.pings("pod-b", "192.168.2.1")
        assert b"forged" not in frames


def test_a_late_removal_leaves_the_tunnel_of_a_new_owner(underlay: Bed) -> None:
    """A VNI may have another link before the removal of its former one is complete."""
    with underlay.inside("node-1"):
        tunnel_guard.admit(GuardedTunnel(PORT, VNI, TWO, "1/1", "old"))
        tunnel_guard.admit(GuardedTunnel(PORT, VNI, THREE, "2/2", "new"))
        assert tunnel_guard.withdraw(PORT, VNI, "1/1")
    assert _table(underlay) == ({(PORT, VNI, THREE)}, {(THREE, PORT, VNI)})


def test_a_tunnel_whose_namespace_is_gone_is_removed_by_its_owner(underlay: Bed, wires: Wires) -> None:
    wire = link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        (tunnel,) = tunnel_guard.read_table().tunnels
        cookie, index = map(int, tunnel.owner.split("/"))
        here = Location(wire.near.netns, cookie, index)
        elsewhere = replace(here, netns="/run/netns/no-such")
        assert remove(elsewhere, "in1") is False
        assert tunnel_guard.read_table().tunnels == (tunnel,), "its device exists, in a namespace without that path"
        underlay.ip("pod-a", "link", "del", "in1")
        assert remove(here, "in1") is False
    assert _table(underlay) == (set(), set())


def test_sweep_removes_what_no_device_has(underlay: Bed, wires: Wires) -> None:
    link_pods(underlay, wires, ONE, TWO)
    with underlay.inside("node-1"):
        for vni, owner in ((70, "7/70"), (71, "7/71")):
            tunnel_guard.admit(GuardedTunnel(PORT, vni, THREE, owner))
        assert tunnel_guard.sweep({"7/70"}, remove_if_empty=True) == 1
    assert _table(underlay)[0] == {(PORT, VNI, TWO), (PORT, 70, THREE)}
    underlay.ip("pod-a", "link", "del", "in1")
    with underlay.inside("node-1"):
        assert tunnel_guard.sweep((), remove_if_empty=True) == 2
        assert tunnel_guard.read_table().layout == ()
        assert tunnel_guard.remove_table() is False


def test_rebuild_replaces_the_table_in_one_transaction(underlay: Bed) -> None:
    kept, added = GuardedTunnel(PORT, 70, TWO, "7/70", "a"), GuardedTunnel(8472, 71, TWO6, "7/71", "b")
    with underlay.inside("node-1"):
        tunnel_guard.admit(kept)
        before = tunnel_guard.read_table().layout
        with Nftables() as channel:
            generation = channel.generation()
            layout = tunnel_guard.rebuild(lambda table: (*table.tunnels, added))
            assert channel.generation() == generation + 1
        table = tunnel_guard.read_table()
    assert table.layout == layout == before
    assert set(table.tunnels) == {kept, added}
    assert table.peers == {(TWO, PORT, 70), (TWO6, 8472, 71)}
    assert table.ports == {PORT, 8472}


def test_rebuild_decides_again_if_the_table_changes_meanwhile(underlay: Bed) -> None:
    late = [GuardedTunnel(PORT, 70, TWO, "7/70")]
    with underlay.inside("node-1"):

        def decide(table: Any) -> tuple[GuardedTunnel, ...]:
            if late:
                tunnel_guard.admit(late.pop())
            return tuple(table.tunnels)

        tunnel_guard.rebuild(decide)
    assert _table(underlay)[0] == {(PORT, 70, TWO)}


def _change_tunnels(underlay: Bed, number: int) -> None:
    """Admit ten tunnels, move each to another peer, and withdraw every other one."""
    with underlay.inside("node-1"):
        for vni in range(100 * number, 100 * number + 10):
            assert tunnel_guard.admit(GuardedTunnel(PORT, vni, TWO, f"1/{vni}")), tunnel_guard.refusal()
            assert tunnel_guard.admit(GuardedTunnel(PORT, vni, THREE, f"1/{vni}")), tunnel_guard.refusal()
            assert vni % 2 or tunnel_guard.withdraw(PORT, vni, f"1/{vni}"), tunnel_guard.refusal()


def _assert_changed(underlay: Bed, numbers: range) -> None:
    left = {(PORT, 100 * number + one, THREE) for number in numbers for one in range(1, 10, 2)}
    assert _table(underlay) == (left, {(peer, port, vni) for port, vni, peer in left})


def test_threads_change_the_table_together(underlay: Bed) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _change_tunnels(underlay, number), range(1, 5)))
    _assert_changed(underlay, range(1, 5))


def test_processes_change_the_table_together(underlay: Bed) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_change_tunnels, args=(underlay, number)) for number in range(1, 9)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    _assert_changed(underlay, range(1, 9))


def test_thousands_of_tunnels_are_read_back(underlay: Bed) -> None:
    tunnels = {
        GuardedTunnel(PORT, 100 + one, f"10.9.{one // 250}.{one % 250}", f"1/{one}", "x" * 300) for one in range(3000)
    }
    with underlay.inside("node-1"):
        tunnel_guard.rebuild(lambda _: tunnels)
        table = tunnel_guard.read_table()
    assert {(one.key, one.peer, one.owner) for one in table.tunnels} == {
        (one.key, one.peer, one.owner) for one in tunnels
    }
    assert len(table.peers) == 3000


def test_a_missing_table_is_made_with_what_the_process_finds(underlay: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked for while there is a table, and it is looked for once for all threads."""
    found = [GuardedTunnel(PORT, vni, TWO, f"1/{vni}") for vni in (1, 2)]
    asked: list[int] = []

    def find() -> list[GuardedTunnel]:
        asked.append(1)
        return found

    def admit(vni: int) -> bool:
        with underlay.inside("node-1"):
            return tunnel_guard.admit(GuardedTunnel(PORT, vni, THREE, f"2/{vni}"))

    monkeypatch.setattr(guard_state, "_state", guard_state._State())
    tunnel_guard.restore_from(find)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(admit, range(2, 10)))
    assert len(asked) == 1
    assert _table(underlay)[0] == {(PORT, 1, TWO)} | {(PORT, vni, THREE) for vni in range(2, 10)}, "the newest wins"
    assert admit(10)
    with underlay.inside("node-1"):
        assert tunnel_guard.restore() is False
    assert len(asked) == 1
    with underlay.inside("node-1"):
        assert tunnel_guard.remove_table()
        assert tunnel_guard.restore() is True
        assert set(tunnel_guard.read_table().tunnels) == set(found)
        assert tunnel_guard.remove_table()
        found.clear()
        assert tunnel_guard.restore() is False
        assert tunnel_guard.read_table().layout == ()


def test_an_unreadable_tunnel_is_counted(underlay: Bed) -> None:
    with underlay.inside("node-1"):
        tunnel_guard.rebuild(lambda _: ())
        with Nftables() as channel:
            channel.transact(add_elements(TABLE, TUNNELS, [Element(tunnel_key(PORT, 5))]))
        assert tunnel_guard.read_table().unreadable == 1
        assert tunnel_guard.admit(GuardedTunnel(PORT, 5, TWO, "1/5")), "it is replaced"
        assert tunnel_guard.read_table().unreadable == 0
