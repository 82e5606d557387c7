"""`ratchet links`: a table for people, JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.cli.link_table import LinkTable, age, shortened, table
from ratchet.cli.links import LinkFilter, link_as_json, print_links, watch_links
from ratchet.core.endpoint_spec import EndpointSpec, EndState
from ratchet.core.kinds import Wiring
from ratchet.core.model import EndError, Link, Side
from ratchet.core.operations import RecordedOperation
from ratchet.core.pod import Pod
from ratchet.core.record_updates import join, mark_ready, with_error
from ratchet.core.serialize import plain
from ratchet.core.state_machine import derive
from ratchet.errors import MalformedRecordError
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.links import LinkChange
from ratchet.store.store import ApiStore
from tests.support.links import NOW, RECORD, annotated, declaring_pod, joined, own, pod, veth, vxlan, wanted, with_ready

Captured = pytest.CaptureFixture[str]


DECLARED = [declaring_pod(), pod("pair-pod")]


class FixedStore(ApiStore):
    """A store of given records, without an API."""

    def __init__(
        self,
        links: list[Link],
        malformed: list[MalformedRecordError] | None = None,
        pods: list[Pod] | None = DECLARED,
    ) -> None:
        self._pods = pods
        self.api = cast(Any, SimpleNamespace(get=lambda _: {}))
        self.links = cast(Any, SimpleNamespace(list=lambda: (links, malformed or [])))
        self.pods = cast(Any, SimpleNamespace(list=self._list_pods))
        self.topologies = cast(Any, SimpleNamespace(list=lambda _: []))

    def _list_pods(self, _: str) -> list[Pod]:
        if self._pods is None:
            raise ForbiddenError("cannot list pods: forbidden")
        return self._pods


def named(link: Link, name: str, namespace: str = "default") -> Link:
    return replace(link, name=name, namespace=namespace)


def test_the_table_has_a_row_for_each_link_in_order(capsys: Captured) -> None:
    links = [
        named(replace(with_ready(vxlan(), *Side), vni=11), "d"),
        named(with_ready(veth(), *Side), "c"),
        named(joined(own(Side.PRIMARY), None), "b"),
        named(wanted(), "a"),
    ]
    assert print_links(FixedStore(links), LinkFilter(), LinkTable()) == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["NAMESPACE", "PRIMARY", "PAIR", "STATE", "KIND", "VNI", "AGE"],
        ["default", "primary-pod:in1", "pair-pod:in2", "pending", "-", "-", "-"],
        ["default", "primary-pod:in1", "pair-pod:in2", "primary-ready", "-", "-", "-"],
        ["default", "primary-pod:in1", "pair-pod:in2", "linked", "veth", "-", "-"],
        ["default", "primary-pod:in1", "pair-pod:in2", "linked", "vxlan", "11", "-"],
    ]
    assert [line.split()[1] for line in err.splitlines()] == ["b", "c", "d"], "of which nothing in the namespace speaks"


@pytest.mark.parametrize(
    ("states", "shown"),
    [(("up", "up"), "linked"), (("down", "down"), "linked,down"), (("cut", "up"), "linked,cut")],
)
def test_the_state_shows_a_link_that_is_down_or_cut(states: tuple[str, str], shown: str) -> None:
    link = with_ready(veth(), *Side)
    for side, state in zip(Side, states, strict=True):
        link = link.with_end(side, replace(link.end(side), properties=EndpointSpec(state=EndState(state))))
    assert LinkTable().row(link, NOW)[3] == shown


CUT = RecordedOperation("1", "cut from primary-pod:in1", "alice", NOW, NOW + timedelta(seconds=30))


def test_the_state_shows_an_operation_until_it_ends() -> None:
    link = replace(with_ready(veth(), *Side), operation=CUT)
    error = replace(link.pair, error=EndError(NOW, "no"), properties=EndpointSpec(state=EndState.DOWN))
    assert LinkTable().row(link, NOW)[3] == "linked(cut)"
    assert LinkTable().row(link.with_end(Side.PAIR, error), NOW)[3] == "linked!,down(cut)"
    assert LinkTable().row(link, NOW + timedelta(seconds=30))[3] == "linked"


def test_an_operation_is_reported_on_stderr_and_in_the_json(capsys: Captured) -> None:
    endless = replace(CUT, until=None, by="al\nice")
    link = replace(with_ready(veth(), *Side), operation=endless)
    assert print_links(FixedStore([link]), LinkFilter(), LinkTable()) == 0
    assert capsys.readouterr().err == (
        f"link {RECORD}: cut from primary-pod:in1, by al\\nice, since 2026-03-04 05:06:07 UTC, until cleared\n"
    )
    assert link_as_json(replace(link, operation=CUT))["operation"] == {
        "words": "cut from primary-pod:in1",
        "by": "alice",
        "since": "2026-03-04T05:06:07+00:00",
        "until": "2026-03-04T05:06:37+00:00",
    }


EDITED = [annotated(declaring_pod(), pair_ip="192.168.2.9"), pod("pair-pod")]


def test_an_edited_link_is_reported_on_stderr_and_in_the_json(capsys: Captured) -> None:
    link = with_ready(veth(), *Side)
    words = "in2: addresses 192.168.2.9/24 instead of 192.168.2.101/24"
    assert print_links(FixedStore([link], pods=EDITED), LinkFilter(), LinkTable()) == 0
    assert capsys.readouterr().err == f"link {RECORD} wants a restart of pod default/primary-pod: {words}\n"
    assert print_links(FixedStore([link], pods=EDITED), LinkFilter(), None) == 0
    assert json.loads(capsys.readouterr().out)[0]["edits"] == [words]


def test_links_are_shown_with_a_warning_if_pods_cannot_be_listed(capsys: Captured) -> None:
    links = [named(with_ready(veth(), *Side), "a"), named(with_ready(veth(), *Side), "b", "lab")]
    assert print_links(FixedStore(links, pods=None), LinkFilter(), LinkTable()) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err == "ratchet: cannot compare links with their declarations in default, lab: cannot list pods: forbidden\n"


def test_the_wide_table_adds_nodes_and_names() -> None:
    wide = LinkTable(is_wide=True, has_namespace=False, width=20)
    link = replace(joined(own(Side.PRIMARY), None), created=NOW)
    panel = replace(link, wiring=Wiring.PANEL)
    rows = [wide.row(one, NOW + timedelta(seconds=5)) for one in (link, panel)]
    head = "PRIMARY           PAIR           STATE           KIND   VNI   AGE   "
    start = "primary-pod:in1   pair-pod:in2   primary-ready   -      -     5s    "
    assert wide.text(rows).splitlines() == [
        f"{head}WIRING   PRIMARY-NODE   PAIR-NODE   LINK",
        f"{start}direct   node-a         -           {RECORD}",
        f"{start}panel    node-a         -           {RECORD}",
    ]


@pytest.mark.parametrize("has_namespace", [True, False])
def test_rows_fit_the_terminal(has_namespace: bool) -> None:
    eighty = LinkTable(has_namespace=has_namespace, width=80)
    link = replace(with_ready(vxlan(), *Side), vni=16000000, namespace="a-lab-with-a-long-name")
    long = replace(
        link, primary=replace(link.primary, name="n" * 63, sandbox=None), pair=replace(link.pair, ifname="e" * 15)
    )
    lines = eighty.text([eighty.row(one, NOW) for one in (link, long)]).splitlines()
    assert max(map(len, lines)) == 80
    assert all(line.split()[-2] in ("VNI", "16000000") for line in lines)


def test_a_row_is_not_shortened_without_a_terminal() -> None:
    link = replace(wanted(), primary=replace(wanted().primary, name="n" * 63))
    assert "n" * 63 in LinkTable().text([LinkTable().row(link, NOW)])


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [("abcdefgh", 8, "abcdefgh"), ("abcdefghi", 8, "abcd…ghi"), ("frr-7d9f8b6c5-abcde:eth1", 17, "frr-7d9f…cde:eth1")],
)
def test_a_long_name_keeps_its_begin_and_end(text: str, length: int, short: str) -> None:
    assert shortened(text, length) == short


def test_columns_are_aligned() -> None:
    rows: list[tuple[str, ...]] = [("NAME", "AGE"), ("longer", "1s"), ("a", "")]
    assert table(rows) == "NAME     AGE\nlonger   1s\na"


def test_the_table_without_links_has_only_headings(capsys: Captured) -> None:
    assert print_links(FixedStore([]), LinkFilter(), LinkTable()) == 0
    assert capsys.readouterr().out.split() == ["NAMESPACE", "PRIMARY", "PAIR", "STATE", "KIND", "VNI", "AGE"]


@pytest.mark.parametrize("links_table", [LinkTable(is_wide=True), None])
def test_links_of_other_namespaces_are_omitted(links_table: LinkTable | None, capsys: Captured) -> None:
    records = FixedStore([named(wanted(), "ours.x", "ours"), named(wanted(), "theirs.x", "theirs")])
    assert print_links(records, LinkFilter("ours"), links_table) == 0
    out = capsys.readouterr().out
    assert "ours.x" in out
    assert "theirs.x" not in out


@pytest.mark.parametrize(
    ("link_filter", "names"),
    [
        (LinkFilter(), "abcd"),
        (LinkFilter(state="linked"), "ab"),
        (LinkFilter(state="pending"), "d"),
        (LinkFilter(node="node-b"), "a"),
        (LinkFilter(node="node-a"), "abc"),
        (LinkFilter(node="node-a", state="primary-ready"), "c"),
        (LinkFilter(pod="pair-pod"), "abcd"),
        (LinkFilter(pod="somebody"), ""),
        (LinkFilter("elsewhere"), ""),
    ],
)
def test_a_filter_selects_links_by_namespace_state_node_and_pod(link_filter: LinkFilter, names: str) -> None:
    links = [
        named(replace(with_ready(vxlan(), *Side), vni=11), "a"),
        named(with_ready(veth(), *Side), "b"),
        named(joined(own(Side.PRIMARY), None), "c"),
        named(wanted(), "d"),
    ]
    assert [link.name for link in links if link_filter.matches(link)] == list(names)


def test_a_filter_matches_a_pod_by_its_own_name_and_by_its_alias() -> None:
    sandbox = replace(own(Side.PRIMARY), pod=replace(own(Side.PRIMARY).pod, name="primary-pod-7f9c"))
    assert LinkFilter(pod="primary-pod-7f9c").matches(joined(sandbox, None))
    assert LinkFilter(pod="primary-pod").matches(joined(sandbox, None))


def test_the_table_shows_the_name_of_the_joined_pod_instead_of_its_alias(capsys: Captured) -> None:
    sandbox = replace(own(Side.PRIMARY), pod=replace(own(Side.PRIMARY).pod, name="primary-pod-7f9c"))
    print_links(FixedStore([joined(sandbox, None)]), LinkFilter(), LinkTable())
    assert "primary-pod-7f9c:in1 " in capsys.readouterr().out


@pytest.mark.parametrize("links_table", [LinkTable(is_wide=True), None])
def test_a_malformed_record_is_reported_and_the_others_are_shown(
    links_table: LinkTable | None, capsys: Captured
) -> None:
    broken = MalformedRecordError("cannot read the record x: it has no namespace")
    assert print_links(FixedStore([wanted()], [broken]), LinkFilter(), links_table) == 1
    out, err = capsys.readouterr()
    assert RECORD in out
    assert err == "ratchet: cannot read the record x: it has no namespace\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"),
        (0, "0s"),
        (1.9, "1s"),
        (119, "119s"),
        (120, "2m"),
        (7199, "119m"),
        (7200, "2h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (400 * 86400, "400d"),
    ],
)
def test_an_age_has_one_unit(seconds: float, said: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == said


def test_an_unknown_age_is_a_dash() -> None:
    assert age(None, NOW) == "-"


def test_json_contains_all_fields_of_a_link(capsys: Captured) -> None:
    sandbox = replace(own(Side.PRIMARY), vteps=("192.168.1.73", "fd00::73"), underlay_mtu=9000)
    link = join(wanted(), wanted(), Side.PRIMARY, sandbox, NOW)
    link = join(link, wanted(), Side.PAIR, own(Side.PAIR, "node-b"), NOW)
    link = mark_ready(replace(link, vni=11, created=NOW), Side.PRIMARY, NOW)
    link = link.with_end(Side.PAIR, replace(link.pair, notes={"public_ip": "1.1.1.1"}))
    assert print_links(FixedStore([link]), LinkFilter(), None) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown == {**link_as_json(link), "edits": []}
    del shown["edits"]
    history = shown.pop("history")
    assert shown == {
        "name": RECORD,
        "namespace": "default",
        "state": "pair-ready",
        "kind": "vxlan",
        "wiring": "direct",
        "vni": 11,
        "generation": 1,
        "observedGeneration": None,
        "created": "2026-03-04T05:06:07+00:00",
        "means": {"tunnel": False, "vxlan_port": None},
        "operation": None,
        "primary": {
            "name": "primary-pod",
            "interface": "in1",
            "addresses": ["192.168.2.100/24"],
            **plain(EndpointSpec()),
            "notes": {},
            "pod": "primary-pod",
            "uid": "primary-pod-uid1",
            "node": "node-a",
            "vtep": "192.168.1.73",
            "vteps": ["192.168.1.73", "fd00::73"],
            "underlay_mtu": 9000,
            "container": "primary-pod-c1",
            "netns": "/run/netns/primary-pod-1",
            "stands": True,
            "error": None,
        },
        "pair": {
            "name": "pair-pod",
            "interface": "in2",
            "addresses": ["192.168.2.101/24"],
            **plain(EndpointSpec()),
            "notes": {"public_ip": "1.1.1.1"},
            "pod": "pair-pod",
            "uid": "pair-pod-uid1",
            "node": "node-b",
            "vtep": "192.168.1.33",
            "vteps": None,
            "underlay_mtu": None,
            "container": "pair-pod-c1",
            "netns": "/run/netns/pair-pod-1",
            "stands": False,
            "error": None,
        },
    }
    assert [(step["from"], step["to"]) for step in history] == [
        ("pending", "primary-ready"),
        ("primary-ready", "pair-ready"),
    ]
    assert datetime.fromisoformat(history[0]["at"]) == NOW
    assert history[0]["reason"] == "primary default/primary-pod joined on node-a"


def test_json_of_a_link_that_no_pod_has_joined(capsys: Captured) -> None:
    print_links(FixedStore([wanted()]), LinkFilter(), None)
    (shown,) = json.loads(capsys.readouterr().out)
    assert [shown[key] for key in ("kind", "vni", "created", "history")] == [None, None, None, []]
    assert {shown["pair"][key] for key in ("pod", "uid", "node", "vtep", "vteps", "container", "netns")} == {None}
    assert shown["pair"]["underlay_mtu"] is None


def test_json_of_no_links_is_an_empty_list(capsys: Captured) -> None:
    print_links(FixedStore([]), LinkFilter(), None)
    assert json.loads(capsys.readouterr().out) == []


# --watch


class ChangingStore(FixedStore):
    """A store whose watch reports each of the given changes once."""

    def __init__(self, links: list[Link], *changes: LinkChange) -> None:
        super().__init__(links)
        self._changes = list(changes)
        self.links = cast(Any, SimpleNamespace(list_with_version=lambda: (links, [], "1"), watch=self._watch))

    def _watch(self, version: str, seconds: float) -> Iterator[tuple[LinkChange, str]]:
        while self._changes:
            yield self._changes.pop(0), version


def watched_rows(store: ApiStore, link_filter: LinkFilter, capsys: Captured) -> list[list[str]]:
    assert watch_links(store, link_filter, LinkTable(has_namespace=False), until=time.monotonic() + 0.05) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_watch_prints_a_link_again_only_if_it_changes(capsys: Captured) -> None:
    primary_ready, both_ready = joined(own(Side.PRIMARY), None), replace(with_ready(vxlan(), *Side), vni=11)
    records = ChangingStore(
        [primary_ready],
        LinkChange(RECORD, primary_ready, "2"),
        LinkChange(RECORD, both_ready, "4"),
        LinkChange(RECORD, None, "5"),
        LinkChange(RECORD, None, "6"),
    )
    rows = watched_rows(records, LinkFilter(), capsys)
    assert [row[:3] for row in rows] == [
        ["PRIMARY", "PAIR", "STATE"],
        ["primary-pod:in1", "pair-pod:in2", "primary-ready"],
        ["primary-pod:in1", "pair-pod:in2", "linked"],
        ["primary-pod:in1", "pair-pod:in2", "gone"],
    ]
    assert all(len(row) == len(rows[0]) for row in rows)


def test_watch_prints_a_link_again_after_its_operation_has_ended(capsys: Captured) -> None:
    link = with_ready(veth(), *Side)
    records = ChangingStore([replace(link, operation=CUT)], LinkChange(RECORD, link, "2"))
    assert [row[2] for row in watched_rows(records, LinkFilter(), capsys)] == ["STATE", "linked", "linked"]


def test_a_link_that_becomes_malformed_is_not_gone(capsys: Captured) -> None:
    broken = MalformedRecordError(f"cannot read the record {RECORD}: it has no namespace", record=RECORD)
    records = ChangingStore([veth()], LinkChange(RECORD, None, "2", broken))
    assert watch_links(records, LinkFilter(), LinkTable(), until=time.monotonic() + 0.05) == 0
    shown = capsys.readouterr()
    assert shown.err == f"ratchet: {broken}\n"
    assert "gone" not in shown.out


def test_watch_shows_a_link_that_leaves_the_filter_as_gone(capsys: Captured) -> None:
    records = ChangingStore([veth()], LinkChange(RECORD, with_ready(veth(), *Side), "2"))
    state = derive(veth()).value
    assert [row[2] for row in watched_rows(records, LinkFilter(state=state), capsys)] == ["STATE", state, "gone"]


def test_watch_prints_a_line_of_json_for_each_change(capsys: Captured) -> None:
    records = ChangingStore([veth()], LinkChange(RECORD, None, "2"))
    assert watch_links(records, LinkFilter(), None, until=time.monotonic() + 0.05) == 0
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["name"], first["kind"]) == (RECORD, "veth")
    assert last == {"name": RECORD, "state": None}


def test_an_error_is_marked_in_the_table_and_listed_on_stderr(capsys: Captured) -> None:
    failed = with_error(replace(vxlan(), vni=11), Side.PAIR, "cannot create in2: File exists", NOW)
    assert print_links(FixedStore([failed]), LinkFilter(), LinkTable(has_namespace=False)) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[2] == f"{derive(failed)}!"
    assert err.splitlines() == [f"link {RECORD}: in2 of pod pair-pod on node-b: cannot create in2: File exists"]
    assert print_links(FixedStore([failed]), LinkFilter(), None) == 0
    pair = json.loads(capsys.readouterr().out)[0]["pair"]
    assert pair["error"]["text"] == "cannot create in2: File exists"
