"""`ratchet link`: which link an endpoint names, what is stored, which operations are over, how they are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ratchet.cli.link_operations import clear_all, clear_operations, current_user, set_operations
from ratchet.cli.main import main
from ratchet.cli.namespace_links import NamespaceLinks
from ratchet.cli.operation_state import is_over, operation_text
from ratchet.cli.operation_table import print_operations
from ratchet.core.kinds import Wiring
from ratchet.core.model import Link, Side
from ratchet.core.operations import ENTRIES_MOST, Operation, Verb, parse_operation
from ratchet.core.pod import Pod, Topology
from ratchet.errors import MalformedRecordError, RatchetError
from ratchet.store.api_errors import ForbiddenError, NotFoundError
from ratchet.store.operation_entries import Entries, EntriesEdit, OperationEntries
from ratchet.store.store import ApiStore
from tests.support.links import NOW, RECORD, annotated, declaring_pod, later, pod, veth

Captured = pytest.CaptureFixture[str]

DAY = 86_400.0
DOWN = Operation("", Verb.DOWN, 30.0, by="alice", at=NOW)
IN1, IN2 = "primary-pod:in1", "pair-pod:in2"
PANEL = [annotated(declaring_pod(), wiring="panel"), pod("pair-pod")]


class MemoryEntries(OperationEntries):
    """Entries without an API."""

    def __init__(self, entries: Entries | None = None) -> None:
        self.entries: Entries = entries or {}

    def read(self) -> Entries:
        return self.entries

    def edit(self, change: Callable[[Entries], Entries]) -> EntriesEdit:
        before, self.entries = self.entries, change(self.entries)
        return EntriesEdit(before, self.entries)


def links_of(
    *records: Link,
    pods: list[Pod] = PANEL,
    topologies: list[Topology] | None = None,
    errors: Mapping[str, RatchetError] | None = None,
) -> NamespaceLinks:
    """The links that these pods declare, with these records. `errors` are the answers for other records."""
    by_name = {record.name: record for record in records}

    def get(name: str) -> Link | None:
        if errors and (error := errors.get(name, errors.get(""))):
            raise error
        return by_name.get(name)

    store = SimpleNamespace(
        api=SimpleNamespace(get=lambda _: {}),
        pods=SimpleNamespace(list=lambda _: pods),
        topologies=SimpleNamespace(list=lambda _: topologies or []),
        links=SimpleNamespace(get=get),
    )
    return NamespaceLinks(cast(ApiStore, store), "default")


def on_panel(link: Link) -> Link:
    return replace(link, wiring=Wiring.PANEL)


def acted_on(operation: Operation, since: float = 0.0, link: Link | None = None) -> Link:
    """A record whose agents have begun an operation, `since` seconds after NOW."""
    return replace(link or on_panel(veth()), operation=parse_operation(operation.as_text()).recorded(later(since)))


# Endpoints


@pytest.mark.parametrize("endpoint", ["pair-pod:in2", "q-7f9c4:in2"])
def test_a_link_is_found_by_any_name_of_its_pod(endpoint: str) -> None:
    pods = [annotated(declaring_pod(), wiring="panel"), annotated(pod("q-7f9c4"), pod_name="pair-pod")]
    found = links_of(pods=pods).find(endpoint, "")
    assert (found.name, found.side, found.endpoint) == (RECORD, Side.PAIR, ("pair-pod", "in2"))


def test_an_endpoint_of_no_declared_link_is_an_error() -> None:
    with pytest.raises(RatchetError) as missing:
        links_of().find("q:in2", "cut link q:in2")
    assert str(missing.value) == "cannot cut link q:in2: no declared link has this endpoint"
    assert missing.value.details == "no link of pod q is declared in namespace default"


def test_the_error_of_an_endpoint_names_those_of_its_pod() -> None:
    with pytest.raises(RatchetError) as missing:
        links_of().find("pair-pod:in9", "hold link pair-pod:in9 down")
    assert missing.value.details == "endpoints of pod pair-pod: pair-pod:in2"


def test_the_error_of_an_endpoint_has_that_of_its_declaration() -> None:
    pods = [annotated(declaring_pod(), local_ip="nonsense"), pod("pair-pod")]
    with pytest.raises(RatchetError) as missing:
        links_of(pods=pods).find(IN1, "hold link down")
    assert 'invalid address "nonsense"' in missing.value.details


def test_the_record_has_the_last_word_on_names_and_roles() -> None:
    swapped = on_panel(replace(veth(), name="default.primary-pod.in1.pair-pod.in2").swapped())
    found = links_of(swapped).find(IN1, "")
    assert (found.name, found.endpoint) == (swapped.name, ("primary-pod", "in1"))
    assert found.keys == {swapped.name, RECORD}


# Set


def test_an_operation_is_stored_under_the_name_of_the_record() -> None:
    entries = MemoryEntries({"default.primary-pod.in1.pair-pod.in2": DOWN.as_text(), "other": "{}"})
    lines = set_operations(entries, links_of(), DOWN, [IN1], NOW)
    assert lines == [f"link {RECORD}: down, for 30s"]
    assert entries.entries == {RECORD: DOWN.as_text(), "other": "{}"}, "and replaces the link's earlier one"


def test_an_operation_without_a_duration_lasts_until_it_is_cleared() -> None:
    lines = set_operations(MemoryEntries(), links_of(), replace(DOWN, seconds=None), [IN1, IN2], NOW)
    assert lines == [f"link {RECORD}: down, until it is cleared"]


@pytest.mark.parametrize("endpoint", [IN1, IN2])
def test_a_one_way_cut_names_what_the_endpoint_sends(endpoint: str) -> None:
    entries, cut = MemoryEntries(), Operation("", Verb.CUT, at=NOW)
    lines = set_operations(entries, links_of(), cut, [endpoint], NOW, is_one_way=True)
    assert lines == [f"link {RECORD}: cut from {endpoint}, until it is cleared"]
    assert json.loads(entries.entries[RECORD])["from"] == endpoint


def test_a_one_way_cut_takes_one_endpoint_of_a_link() -> None:
    entries = MemoryEntries()
    with pytest.raises(RatchetError, match="cannot cut link pair-pod:in2: another endpoint of this link is given too"):
        set_operations(entries, links_of(), Operation("", Verb.CUT), [IN1, IN2], NOW, is_one_way=True)
    assert entries.entries == {}


def test_up_removes_the_operation_of_a_link_that_is_declared_up() -> None:
    entries = MemoryEntries({RECORD: DOWN.as_text()})
    up = Operation("", Verb.UP, at=NOW)
    removed, none = (set_operations(entries, links_of(), up, [IN1], NOW) for _ in range(2))
    assert removed == [f"link {RECORD}: up, as it is declared; its operation is removed"]
    assert none == [f"link {RECORD}: up, as it is declared"]
    assert entries.entries == {}


@pytest.mark.parametrize("state", ["down", "[up, down]"])
def test_up_is_stored_for_a_link_that_is_declared_down_or_cut(state: str) -> None:
    text = f"- {{endpoints: ['a:x', 'b:y'], state: {state}}}"
    links = links_of(pods=[pod("a"), pod("b")], topologies=[Topology("default", "lab", text)])
    entries = MemoryEntries()
    assert set_operations(entries, links, Operation("", Verb.UP, 5.0), ["b:y"], NOW) == [
        "link default.a.x.b.y: up, for 5s"
    ]
    assert [*entries.entries] == ["default.a.x.b.y"]


@pytest.mark.parametrize(
    ("links", "details"),
    [
        (
            links_of(veth()),
            "declare `wiring: panel`, or the label `ratchet.wiring: panel`, for it, delete both pods, then start them",
        ),
        (
            links_of(pods=[annotated(declaring_pod(), wiring="direct"), pod("pair-pod")]),
            "declare `wiring: panel`, or the label `ratchet.wiring: panel`, for it",
        ),
    ],
    ids=["record", "declaration"],
)
def test_a_link_in_direct_wiring_is_rejected(links: NamespaceLinks, details: str) -> None:
    entries = MemoryEntries()
    with pytest.raises(RatchetError) as rejected:
        set_operations(entries, links, DOWN, [IN1], NOW)
    assert str(rejected.value) == f"cannot hold link {IN1} down: it is in direct wiring"
    assert rejected.value.details == details
    assert entries.entries == {}


def test_a_link_without_a_record_and_a_declared_wiring_is_permitted() -> None:
    topology = Topology("default", "lab", "- endpoints: ['a:x', 'b:y']")
    links = links_of(pods=[pod("a"), pod("b")], topologies=[topology])
    assert set_operations(MemoryEntries(), links, DOWN, ["a:x"], NOW) == ["link default.a.x.b.y: down, for 30s"]


def test_operations_over_the_limit_are_not_stored() -> None:
    full = {f"link-{number}": replace(DOWN, seconds=None).as_text() for number in range(ENTRIES_MOST)}
    entries = MemoryEntries(full)
    with pytest.raises(RatchetError) as rejected:
        set_operations(entries, links_of(), DOWN, [IN1], NOW)
    assert f"it has {ENTRIES_MOST + 1} operations, at most {ENTRIES_MOST}" in str(rejected.value)
    assert entries.entries == full
    clear_operations(entries, links_of(), ["link-0"], NOW)
    assert set_operations(entries, links_of(), DOWN, [IN1], NOW)


def test_records_that_the_account_may_not_read_are_not_needed() -> None:
    links = links_of(errors={"": ForbiddenError("forbidden")})
    assert set_operations(MemoryEntries(), links, DOWN, [IN1], NOW) == [f"link {RECORD}: down, for 30s"]
    assert not links.may_read_records


def test_a_malformed_record_is_reported() -> None:
    links = links_of(errors={RECORD: MalformedRecordError("cannot read the record")})
    assert set_operations(MemoryEntries(), links, DOWN, [IN1], NOW)
    assert links.faults == ["cannot read the record"]


# Operations that are over


@pytest.mark.parametrize(
    ("operation", "record", "elapsed", "over"),
    [
        (replace(DOWN, seconds=None), None, 400 * DAY, False),
        # An operation that has begun ends as its record says, but for the clocks of nodes.
        (DOWN, acted_on(DOWN, since=3600.0), 3600.0, False),
        (DOWN, acted_on(DOWN, since=3600.0), 3630.0 + 59.0, False),
        (DOWN, acted_on(DOWN, since=3600.0), 3630.0 + 60.0, True),
        # Else the clock of who set it may be wrong by a day.
        (DOWN, None, DAY + 29.0, False),
        (DOWN, None, DAY + 30.0, True),
        (DOWN, acted_on(replace(DOWN, by="bob")), DAY + 29.0, False),
        (replace(DOWN, at=None), None, 400 * DAY, False),
        (replace(DOWN, at=None), acted_on(replace(DOWN, at=None)), 90.0, True),
    ],
)
def test_an_operation_is_over_when_it_cannot_act_any_more(
    operation: Operation, record: Link | None, elapsed: float, over: bool
) -> None:
    assert is_over(parse_operation(operation.as_text()), record, later(elapsed)) is over


def test_operations_that_are_over_are_removed_by_the_next_write() -> None:
    other = replace(DOWN, by="bob")
    begun = replace(acted_on(other), name="default.a.x.b.y")
    entries = MemoryEntries({begun.name: other.as_text(), "gone": DOWN.as_text(), "invalid": "x"})
    set_operations(entries, links_of(begun), DOWN, [IN1], later(100))
    assert entries.entries.keys() == {RECORD, "gone", "invalid"}, "the record of one is unknown"
    set_operations(entries, links_of(), DOWN, [IN1], later(DAY + 30))
    assert entries.entries.keys() == {RECORD, "invalid"}


def test_the_record_of_another_namespace_is_not_used() -> None:
    foreign = replace(acted_on(DOWN), name="x", namespace="other")
    entries = MemoryEntries({"x": DOWN.as_text()})
    clear_operations(entries, links_of(foreign), ["y"], later(100))
    assert entries.entries.keys() == {"x"}


# Clear


def test_clear_takes_endpoints_and_names() -> None:
    entries = MemoryEntries({RECORD: DOWN.as_text(), "gone": DOWN.as_text(), "kept": DOWN.as_text()})
    assert clear_operations(entries, links_of(), [IN2, "gone", "unknown"], NOW) == [
        f"link {IN2}: its operation is removed",
        "link gone: its operation is removed",
        "link unknown: it has no operation",
    ]
    assert entries.entries.keys() == {"kept"}
    assert clear_all(entries) == ["link kept: its operation is removed"]
    assert entries.entries == {}
    assert clear_all(entries) == []


# Show


def test_show_has_the_times_of_the_record(capsys: Captured) -> None:
    cut = Operation("", Verb.CUT, sender=("a", "x"), by="bob\x1b", at=NOW)
    entries = {RECORD: DOWN.as_text(), "default.a.x.b.y": cut.as_text(), "ended": DOWN.as_text()}
    links = links_of(acted_on(DOWN, since=2.0), replace(acted_on(DOWN), name="ended"))
    assert print_operations(entries, links, "default", later(31)) == 0
    out, err = capsys.readouterr()
    assert [re.split(" {3,}", line) for line in out.splitlines()] == [
        ["LINK", "OPERATION", "BY", "SINCE", "UNTIL"],
        ["default.a.x.b.y", "cut from a:x", "bob\\x1b", "not begun", "-"],
        [RECORD, "down", "alice", "2026-03-04 05:06:09 UTC", "2026-03-04 05:06:39 UTC (1s left)"],
        ["ended", "down", "alice", "2026-03-04 05:06:07 UTC", "2026-03-04 05:06:37 UTC (ended)"],
    ]
    assert err == ""


def test_show_as_json_of_one_link(capsys: Captured) -> None:
    entries = {RECORD: DOWN.as_text(), "other": "invalid"}
    links = links_of(acted_on(DOWN))
    assert print_operations(entries, links, "default", later(1), of=[IN1], as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "link": RECORD,
            "operation": "down",
            "by": "alice",
            "at": "2026-03-04T05:06:07+00:00",
            "since": "2026-03-04T05:06:07+00:00",
            "until": "2026-03-04T05:06:37+00:00",
            "progress": "acting",
        }
    ]


@pytest.mark.parametrize(
    ("at", "elapsed", "progress"), [(NOW, 0.0, "acting"), (NOW, 30.0, "ended"), (None, 0.0, "unknown")]
)
def test_show_without_records_has_the_time_at_which_it_was_set(
    at: Any, elapsed: float, progress: str, capsys: Captured
) -> None:
    links = links_of(errors={"": ForbiddenError("forbidden")})
    entries = {RECORD: replace(DOWN, at=at).as_text()}
    assert print_operations(entries, links, "default", later(elapsed), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)[0]["progress"] == progress


def test_show_reports_invalid_operations(capsys: Captured) -> None:
    assert print_operations({RECORD: '{"operation": "sideways"}'}, links_of(), "default", NOW) == 1
    error = f'cannot read the operation of link {RECORD}: operation: invalid operation "sideways"'
    assert capsys.readouterr().err.startswith(f"ratchet: {error}")


def test_show_reports_operations_over_the_limit() -> None:
    full = {str(number): DOWN.as_text() for number in range(ENTRIES_MOST + 1)}
    with pytest.raises(RatchetError, match="cannot read the operations of namespace default: it has 1025 operations"):
        print_operations(full, links_of(), "default", NOW)


# Texts and flags


def test_the_text_of_an_operation_without_an_end() -> None:
    recorded = Operation("1", Verb.DOWN).recorded(NOW)
    assert operation_text(recorded, NOW) == "down, since 2026-03-04 05:06:07 UTC, until cleared"


@pytest.mark.parametrize(
    ("answer", "user"),
    [
        (
            {"status": {"userInfo": {"username": "system:serviceaccount:lab:tenant"}}},
            "system:serviceaccount:lab:tenant",
        ),
        ({"status": {"userInfo": {"username": "a" * 300}}}, "a" * 128),
        ({}, "me@here"),
        (NotFoundError("404"), "me@here"),
        (ForbiddenError("403"), "me@here"),
    ],
)
def test_the_user_is_that_of_the_api_server(answer: Any, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(_path: str, _body: object) -> Any:
        if isinstance(answer, RatchetError):
            raise answer
        return answer

    monkeypatch.setattr("getpass.getuser", lambda: "me")
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    api = SimpleNamespace(patient=lambda _: SimpleNamespace(create=create))
    assert current_user(cast(Any, api)) == user


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", fail)
    api = SimpleNamespace(patient=lambda _: SimpleNamespace(create=lambda *_: {}))
    assert current_user(cast(Any, api)).startswith("uid-")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["down", "r1"], 'invalid endpoint "r1": expected POD:INTERFACE, such as r1:eth1'),
        (["down", "r1:eth1", "--for", "0s"], 'invalid duration "0s": expected 50ms to 720h'),
        (["down", "r1:eth1", "--for", "-5s"], 'invalid duration "-5s"'),
        (["flap", "r1:eth1", "--times", "0"], 'invalid number "0": expected 1 to 1000000'),
        (["flap", "r1:eth1", "--times", "x"], 'invalid number "x"'),
        (["flap", "r1:eth1", "--down", "1us"], 'invalid duration "1us"'),
        (["down", "r1:eth1", "--one-way"], "unrecognized arguments: --one-way"),
        (["clear"], "expected either the links to clear, or --all"),
        (["clear", "r1:eth1", "--all"], "expected either the links to clear, or --all"),
    ],
)
def test_wrong_usage_is_rejected(arguments: list[str], error: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["link", *arguments])
    assert exited.value.code == 2
    assert error in capsys.readouterr().err
