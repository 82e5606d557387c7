"""What is done for a link that no call is at work on: what could not be done is done the next time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ratchet import datapath
from ratchet.agent import tending
from ratchet.core.model import Pod, Side
from ratchet.errors import ApiUnavailableError
from ratchet.node.journal import Attachment, SandboxEntry
from tests.support.links import own


def test_that_a_peers_node_is_lost_is_noted_until_it_has_been(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API is away most likely when a node goes. What is noted is not noted again: the peer may say it lives."""
    tries: list[str] = []

    def note_lost(_link: str, container_id: str, _reason: str) -> None:
        tries.append(container_id)
        if len(tries) == 1:
            raise ApiUnavailableError("cannot reach the Kubernetes API")

    monkeypatch.setattr(tending, "Reconciler", lambda *_: SimpleNamespace(note_lost=note_lost))
    record = SimpleNamespace(
        side_of=lambda _: Side.PRIMARY,
        sandbox=lambda _: SimpleNamespace(node="gone", container_id="peer"),
        stands=lambda _: True,
    )
    nothing: Any = None
    tender = tending.Tender(
        node="here",
        journal=SimpleNamespace(lock=lambda _: nullcontext(), is_deleted=nothing),  # type: ignore[arg-type]
        records=SimpleNamespace(known={"link": record}),  # type: ignore[arg-type]
        sites=nothing,
        announcer=nothing,
        metrics=nothing,
        is_adding=nothing,
        is_lost=lambda node: node == "gone",
        membership=nothing,
    )
    held: Any = [(SimpleNamespace(attachment=SimpleNamespace(container_id="own")), None)]
    with pytest.raises(ApiUnavailableError):
        tender._note_lost_peer("link", held)
    for _ in range(2):
        tender._note_lost_peer("link", held)
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
    tender = tending.Tender(
        node="node-a",
        journal=SimpleNamespace(is_deleted=lambda _: False),  # type: ignore[arg-type]
        records=SimpleNamespace(pod=lambda *_: pod),  # type: ignore[arg-type]
        sites=nothing,
        announcer=nothing,
        metrics=nothing,
        is_adding=lambda _: False,
        is_lost=nothing,
        membership=nothing,
    )
    entry = SandboxEntry(Attachment("net", sandbox.container_id, "eth0"), sandbox.netns, sandbox.pod)
    assert (tender._why_dead(sandbox) is None) is alive
    assert tender._is_alive(entry) is alive
