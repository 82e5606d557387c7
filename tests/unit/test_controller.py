"""What is done for a link that no call is at work on: what could not be done is done the next time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet import datapath
from ratchet.agent import controller
from ratchet.agent.events import Reason
from ratchet.agent.membership import Membership
from ratchet.core.model import Link, Pod, PodRef, Side
from ratchet.errors import AddressFamilyError, ApiUnavailableError, InvalidIntentError, RatchetError
from ratchet.node.journal import Attachment, HeldEnd, SandboxEntry
from tests.support.links import own, veth, wanted


def test_that_a_peers_node_is_lost_is_noted_until_it_has_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API is away most likely when a node goes. What is noted is not noted again: the peer may say it lives."""
    tries: list[str] = []

    def mark_lost(_link: str, container_id: str, _reason: str) -> None:
        tries.append(container_id)
        if len(tries) == 1:
            raise ApiUnavailableError("cannot reach the Kubernetes API")

    monkeypatch.setattr(controller, "RecordWriter", lambda *_: SimpleNamespace(mark_lost=mark_lost))
    record = SimpleNamespace(
        side_of=lambda _: Side.PRIMARY,
        sandbox=lambda _: SimpleNamespace(node="gone", container_id="peer"),
        is_ready=lambda _: True,
    )
    nothing: Any = None
    links = controller.LinkController(
        node="here",
        journal=SimpleNamespace(lock=lambda _: nullcontext(), is_deleted=nothing),  # type: ignore[arg-type]
        records=SimpleNamespace(links=SimpleNamespace(cache={"link": record})),  # type: ignore[arg-type]
        sites=nothing,
        announcer=nothing,
        metrics=nothing,
        is_adding=nothing,
        is_lost=lambda node: node == "gone",
        membership=nothing,
    )
    held: Any = [(SimpleNamespace(attachment=SimpleNamespace(container_id="own")), None)]
    with pytest.raises(ApiUnavailableError):
        links._note_lost_peer("link", held)
    for _ in range(2):
        links._note_lost_peer("link", held)
    assert tries == ["peer", "peer"]


ORDINARY = own(Side.PRIMARY)
STATIC = replace(ORDINARY, pod=replace(ORDINARY.pod, mirror="static-1"))


@pytest.mark.parametrize(
    ("sandbox", "pod", "alive"),
    [
        (ORDINARY, Pod(ORDINARY.pod), True),
        (ORDINARY, Pod(replace(ORDINARY.pod, uid="another")), False),
        (STATIC, Pod(replace(STATIC.pod, uid="another")), True),
        (STATIC, Pod(replace(STATIC.pod, uid="another", mirror="static-2")), False),
        (STATIC, Pod(replace(STATIC.pod, uid="another"), phase="Failed"), False),
        (STATIC, None, False),
    ],
    ids=["ordinary", "created again", "mirror created again", "new manifest", "mirror finished", "mirror gone"],
)
def test_a_sandbox_lives_with_its_pod_or_its_static_pod(
    monkeypatch: pytest.MonkeyPatch, sandbox: Any, pod: Pod | None, alive: bool
) -> None:
    monkeypatch.setattr(datapath, "namespace_is_there", lambda _: True)
    nothing: Any = None
    links = controller.LinkController(
        node="node-a",
        journal=SimpleNamespace(is_deleted=lambda _: False),  # type: ignore[arg-type]
        records=SimpleNamespace(pods=SimpleNamespace(get=lambda *_: pod, lookup=lambda *_: pod)),  # type: ignore[arg-type]
        sites=nothing,
        announcer=nothing,
        metrics=nothing,
        is_adding=lambda _: False,
        is_lost=nothing,
        membership=nothing,
    )
    entry = SandboxEntry(Attachment("net", sandbox.container_id, "eth0"), sandbox.netns, sandbox.pod)
    assert (links._why_dead(sandbox) is None) is alive
    assert links._is_alive(entry) is alive


def test_a_sandbox_whose_pod_only_the_cache_has_is_dead() -> None:
    """It would take the place again from which the garbage collector has removed it."""
    nothing: Any = None
    pods = SimpleNamespace(get=lambda *_: None, lookup=lambda *_: Pod(ORDINARY.pod))

    links = controller.LinkController(
        node="node-a",
        journal=nothing,
        records=SimpleNamespace(pods=pods),  # type: ignore[arg-type]
        sites=nothing,
        announcer=nothing,
        metrics=nothing,
        is_adding=nothing,
        is_lost=nothing,
        membership=nothing,
    )
    assert not links._is_alive(PRIMARY_ENTRY)


class Events:
    """An announcer that keeps what it is called with: reason, text and interface."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []

    def event(self, _: PodRef, reason: Reason, text: str, interface: str = "") -> None:
        self.sent.append((reason, text, interface))


PRIMARY_END = HeldEnd(wanted(), Side.PRIMARY)
PRIMARY_ENTRY = SandboxEntry(
    Attachment("net", ORDINARY.container_id, "eth0"), ORDINARY.netns, ORDINARY.pod, (PRIMARY_END,)
)


def tender_with(events: Events) -> controller.LinkController:
    nothing: Any = None
    return controller.LinkController(
        node="node-a",
        journal=nothing,
        records=SimpleNamespace(pods=SimpleNamespace(lookup_named=lambda *_: [])),  # type: ignore[arg-type]
        sites=lambda *_: SimpleNamespace(sandbox=lambda *_: ORDINARY),  # type: ignore[arg-type]
        announcer=events,  # type: ignore[arg-type]
        metrics=nothing,
        is_adding=nothing,
        is_lost=nothing,
        membership=nothing,
    )


@pytest.mark.parametrize(
    ("record", "linked", "first", "event"),
    [
        (veth(), True, True, ("Linked", "in1 is linked to in2 of pair-pod (veth)", "in1")),
        (None, False, True, ("WaitingForPeer", "in1 waits for pod pair-pod: there is no such pod", "in1")),
        (None, False, False, ("LinkLost", "in1 to pair-pod: its record is gone", "in1")),
    ],
)
def test_an_event_of_a_link_has_its_interface(
    record: Link | None, linked: bool, first: bool, event: tuple[str, str, str]
) -> None:
    events = Events()
    tender_with(events)._announce(PRIMARY_ENTRY, PRIMARY_END, record, linked=linked, first=first)
    assert events.sent == [event]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(InvalidIntentError("no"), "InvalidIntent"), (AddressFamilyError("no"), "NoCommonAddressFamily")],
)
def test_an_event_of_an_end_that_cannot_be_made_has_its_interface(
    error: RatchetError, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(controller, "Reconciler", lambda *_: SimpleNamespace(settle=settle))
    events = Events()
    with pytest.raises(type(error)):
        tender_with(events)._bring_up(PRIMARY_ENTRY, PRIMARY_END)
    assert events.sent == [(reason, "no", "in1")]


def test_an_event_of_an_edit_has_its_interface() -> None:
    nothing: Any = None
    events = Events()
    membership = Membership(
        journal=nothing,
        records=SimpleNamespace(links=SimpleNamespace(cache={PRIMARY_END.link: veth()})),  # type: ignore[arg-type]
        announcer=events,  # type: ignore[arg-type]
        is_adding=nothing,
        reconcile_link=nothing,
        enqueue_pod=nothing,
    )
    membership._announce_edits(PRIMARY_ENTRY, Pod(ORDINARY.pod), {}, None)
    ((reason, text, interface),) = events.sent
    assert (reason, interface) == ("WantsRestart", "in1")
    assert text.startswith("link default.pair-pod.in2.primary-pod.in1 wants a restart of pod default/primary-pod: ")


def test_an_event_of_a_link_whose_interface_another_link_holds_has_the_interface(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing: Any = None
    events = Events()
    other = HeldEnd(replace(wanted(), name="default.other.in2.primary-pod.in1"), Side.PRIMARY)
    membership = Membership(
        journal=SimpleNamespace(  # type: ignore[arg-type]
            read=lambda _: PRIMARY_ENTRY,
            sandbox_lock=lambda _: nullcontext(),
            of_container=lambda _: [],
            change_ends=lambda *_: False,
        ),
        records=nothing,
        announcer=events,  # type: ignore[arg-type]
        is_adding=nothing,
        reconcile_link=nothing,
        enqueue_pod=nothing,
    )
    monkeypatch.setattr("ratchet.agent.membership.held_ends", lambda *_: [other])
    membership._take(PRIMARY_ENTRY, Pod(ORDINARY.pod), [nothing])
    assert [(reason, interface) for reason, _, interface in events.sent] == [("WantsRestart", "in1")]
