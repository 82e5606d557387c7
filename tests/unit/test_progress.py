"""The progress of links: which are linked, and what the others wait for. And `ratchet wait`."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.cli import wait as wait_module
from ratchet.cli.progress import progress_of
from ratchet.cli.wait import wait_for_links
from ratchet.core.intent import wanted_links
from ratchet.core.model import Link, Side
from ratchet.core.pod import Pod, Topology
from ratchet.errors import MalformedRecordError
from ratchet.store.store import ApiStore
from tests.support.links import RECORD, annotated, declaring_pod, joined, own, pod, primary_pod, veth, vxlan, with_ready

Captured = pytest.CaptureFixture[str]
PODS = [declaring_pod(), replace(pod("pair-pod"), node="node-b")]


class Scripted(ApiStore):
    """A store that lists the next of the given sets of records at each call. The last set stays."""

    def __init__(self, *records: list[Link], pods: list[Pod] | None = None) -> None:
        self._records = list(records)
        self.api = cast(Any, SimpleNamespace(get=lambda _: {}))
        self.links = cast(Any, SimpleNamespace(list=self._list))
        self.pods = cast(Any, SimpleNamespace(list=lambda _: PODS if pods is None else pods))
        self.topologies = cast(Any, SimpleNamespace(list=lambda _: []))

    def _list(self) -> tuple[list[Link], list[MalformedRecordError]]:
        return (self._records.pop(0) if len(self._records) > 1 else self._records[0]), []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_module, "POLL_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (
            None,
            "pod primary-pod: it is not scheduled; pod pair-pod: it is scheduled on node-b and its in2 has not been",
        ),
        (
            joined(own(Side.PRIMARY), None),
            "pod pair-pod: it is scheduled on node-b and its in2 has not been asked for yet",
        ),
        (
            vxlan(),
            "both pods have joined, but in1 of pod primary-pod on node-a and in2 of pod pair-pod on node-b are not",
        ),
        (
            with_ready(vxlan(), Side.PAIR),
            "both pods have joined, but in1 of pod primary-pod on node-a is not ready yet",
        ),
    ],
    ids=["no record", "one joined", "both joined", "one ready"],
)
def test_progress_states_what_a_link_waits_for(record: Link | None, why: str) -> None:
    records = {RECORD: record} if record else {}
    progress = progress_of(wanted_links(PODS), records, PODS)
    assert (progress.linked, progress.wanted, progress.complete) == (0, 1, False)
    assert progress.waiting[RECORD].startswith(why)


def test_progress_is_complete_if_all_links_are_linked_and_no_pod_is_rejected() -> None:
    records = {RECORD: with_ready(veth(), *Side)}
    assert progress_of(wanted_links(PODS), records, PODS).complete
    with_invalid_pod = [*PODS, primary_pod("x", "x")]
    assert not progress_of(wanted_links(with_invalid_pod), records, with_invalid_pod).complete


def test_an_invalid_declaration_counts_as_a_link() -> None:
    pods = [*PODS, primary_pod("x", "x")]
    progress = progress_of(wanted_links(pods), {RECORD: with_ready(veth(), *Side)}, pods)
    assert (progress.linked, progress.wanted) == (1, 2)


def test_invalid_labels_of_two_pods_are_two_declarations() -> None:
    invalid = [*PODS, primary_pod("x", "v", local_ip="x"), primary_pod("z", "w", local_ip="x")]
    progress = progress_of(wanted_links(invalid), {RECORD: with_ready(veth(), *Side)}, invalid)
    assert (progress.linked, progress.wanted, len(progress.refused)) == (1, 3, 2)


def test_an_invalid_link_of_a_topology_counts_once_whether_or_not_its_pods_exist() -> None:
    invalid = Topology("default", "lab", "- endpoints: [primary-pod:eth0, pair-pod:e1]\n- endpoints: [x:e1, y:lo]")
    for pods in (PODS, []):
        progress = progress_of(wanted_links(pods, topologies=[invalid]), {}, pods, [invalid])
        rejected = [error.partition(": ")[0] + ": " + error.partition(": ")[2][:6] for error in progress.refused]
        assert (progress.linked, len(progress.refused)) == (0, 2)
        assert progress.wanted == len(progress.waiting) + 2
        assert rejected == ["topology default/lab: line 1", "topology default/lab: line 2"]


def test_a_link_edited_since_its_primary_started_wants_a_restart() -> None:
    pods = [annotated(declaring_pod(), local_ip="192.168.2.9"), PODS[1]]
    progress = progress_of(wanted_links(pods), {RECORD: with_ready(veth(), *Side)}, pods)
    assert not progress.complete
    assert progress.waiting[RECORD] == (
        "wants a restart of pod default/primary-pod: in1: addresses 192.168.2.9/24 instead of 192.168.2.100/24"
    )


def test_wait_prints_the_progress_and_ends_when_all_links_are_linked(capsys: Captured) -> None:
    records = Scripted([], [], [vxlan()], [with_ready(vxlan(), *Side)])
    assert wait_for_links(records, "default", 60.0) == 0
    assert capsys.readouterr().out.splitlines() == ["0 of 1 links are linked", "1 of 1 links are linked"]


def test_wait_prints_the_causes_after_a_timeout(capsys: Captured) -> None:
    records = Scripted([], pods=[*PODS, primary_pod("x", "x")])
    assert wait_for_links(records, "default", 0.0) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ratchet: not all links are linked after 0 s"
    assert lines[1].startswith(f"         {RECORD}: pod primary-pod: it is not scheduled")
    assert lines[2] == "         cannot link pod default/x: ratchet.pair_name: a pod cannot be linked to itself"


def test_wait_fails_in_a_namespace_without_declared_links(capsys: Captured) -> None:
    assert wait_for_links(Scripted([], pods=[]), "default", 0.0) == 1
    assert capsys.readouterr().err == "ratchet: no links are declared in namespace default\n"
