"""What is wrong with the guard's table, and what a new one must have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ratchet.core.tunnel_guard import (
    COMMENT_BYTES,
    GuardedTunnel,
    GuardTable,
    complete_tunnels,
    count_new_drops,
    faults,
    gone_tunnels,
    owner_of,
    peers_of,
    read_comment,
    rebuilt_tunnels,
)

LAYOUT = ("a layout",)
ONE = GuardedTunnel(4789, 11, "10.9.0.2", "1/1", "ns.a.in1.b.in1")
TWO = GuardedTunnel(4790, 11, "fd09::2", "2/1", "ns.c.in1.d.in1")
TABLE = GuardTable(LAYOUT, (ONE, TWO), peers_of((ONE, TWO)), ports=frozenset({4789, 4790}))


@pytest.mark.parametrize("tunnel", [ONE, TWO, replace(ONE, owner=""), replace(ONE, link="")])
def test_a_comment_is_read_as_it_was_written(tunnel: GuardedTunnel) -> None:
    assert read_comment(tunnel.port, tunnel.vni, tunnel.comment) == tunnel


def test_a_long_name_of_a_link_is_cut_between_characters() -> None:
    tunnel = replace(ONE, link="ü" * 300)
    assert len(tunnel.comment.encode()) <= COMMENT_BYTES
    found = read_comment(*tunnel.key, tunnel.comment)
    assert found is not None
    assert (found.peer, found.owner, set(found.link)) == (tunnel.peer, tunnel.owner, {"ü"})


@pytest.mark.parametrize("comment", ["", "10.9.0.2", " "])
def test_a_comment_of_others_is_no_tunnel(comment: str) -> None:
    assert read_comment(4789, 11, comment) is None


@pytest.mark.parametrize(("cookie", "index", "owner"), [(7, 3, "7/3"), (0, 3, ""), (7, 0, "")])
def test_an_owner_is_known_by_cookie_and_ifindex(cookie: int, index: int, owner: str) -> None:
    assert owner_of(cookie, index) == owner


STRANGE = ("10.9.0.66", 4789, 11)


@pytest.mark.parametrize(
    ("table", "gone", "found"),
    [
        (TABLE, (), ()),
        (GuardTable(), (), ("the table is missing",)),
        (replace(TABLE, layout=("another",)), (), ("its rules were changed",)),
        (
            replace(TABLE, peers=TABLE.peers | {STRANGE}),
            (),
            ("it accepts datagrams from addresses that are no peers",),
        ),
        (replace(TABLE, peers=peers_of((ONE,))), (), ("it lacks addresses of peers",)),
        (replace(TABLE, ports=frozenset({4789, 8472})), (), ("it lacks UDP ports of tunnels",)),
        (replace(TABLE, unreadable=1), (), ("it has tunnels that are not Ratchet's",)),
        (
            replace(TABLE, tunnels=(ONE, replace(TWO, owner=ONE.owner))),
            (),
            ("it has several tunnels of one interface",),
        ),
        (TABLE, (TWO,), ("it has 1 tunnels that are gone",)),
    ],
)
def test_every_fault_of_a_table_is_found(
    table: GuardTable, gone: tuple[GuardedTunnel, ...], found: tuple[str, ...]
) -> None:
    assert faults(table, LAYOUT, gone) == found


def test_tunnels_without_a_known_owner_are_not_compared() -> None:
    tunnels = (replace(ONE, owner=""), replace(TWO, owner=""))
    assert faults(replace(TABLE, tunnels=tunnels), LAYOUT, ()) == ()


def test_a_tunnel_is_gone_if_nobody_holds_it_and_no_device_has_it() -> None:
    asked: list[GuardedTunnel] = []

    def exists(tunnel: GuardedTunnel) -> bool:
        asked.append(tunnel)
        return tunnel is TWO

    assert gone_tunnels(TABLE, {ONE.owner, TWO.owner}, exists) == ()
    assert not asked
    assert gone_tunnels(TABLE, {ONE.owner}, exists) == ()
    assert gone_tunnels(TABLE, set(), exists) == (ONE,)


def test_a_new_table_keeps_what_is_not_known_to_be_gone() -> None:
    moved, new = replace(ONE, peer="10.9.0.3"), replace(TWO, vni=12, owner="3/3")
    assert set(rebuilt_tunnels(TABLE, [moved, new], (), ())) == {moved, TWO, new}
    assert set(rebuilt_tunnels(TABLE, [moved], (TWO,), ())) == {moved}
    assert set(rebuilt_tunnels(TABLE, [moved], (), {TWO.owner})) == {moved}


def test_a_table_that_was_missing_gets_the_newest_of_each_tunnel() -> None:
    moved, new = replace(ONE, peer="10.9.0.3"), replace(TWO, vni=12, owner="3/3")
    assert set(complete_tunnels(GuardTable(), [ONE, TWO])) == {ONE, TWO}
    assert set(complete_tunnels(GuardTable((), (moved,)), [ONE, TWO], new)) == {moved, TWO, new}
    assert set(complete_tunnels(TABLE, [], moved)) == {moved, TWO}


def test_drops_are_counted_since_the_last_look() -> None:
    before = {(4789, 11): 5, (4789, 12): 7, (4789, 13): 9}
    now = {(4789, 11): 8, (4789, 12): 7, (4789, 13): 2, (4789, 0): 1}
    assert count_new_drops(before, now) == {(4789, 11): 3, (4789, 13): 2, (4789, 0): 1}
    assert count_new_drops({}, {}) == {}
