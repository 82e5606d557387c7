"""The column VERIFIED of `ratchet links -o wide`: each agent is asked once, and those that fail cost a note."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli.main import main
from ratchet.cli.proofs import proof_text
from ratchet.core.kinds import Wiring
from ratchet.core.model import Side
from ratchet.core.oam import record_id
from ratchet.core.silence import proof_key
from ratchet.store import agents
from tests.support.http_server import write_kubeconfig
from tests.support.links import veth, vxlan, with_ready
from tests.support.static_api import AGENT_PODS, StaticApi, serving

Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, list[str], str]]

UIDS = [f"7f2c9a52-0000-4000-8000-00000000000{number}" for number in range(3)]
PANEL = [
    replace(with_ready(vxlan(), *Side), name=f"default.{name}", uid=uid, vni=11, wiring=Wiring.PANEL)
    for name, uid in zip("abc", UIDS, strict=True)
]


def end(verified: float | None, silent: float | None = None) -> dict[str, float | None]:
    return {"verified": verified, "silent": silent}


def answer(**ends: tuple[int, dict[str, float | None]]) -> dict[str, Any]:
    """The proofs of an agent: by side, the number of the link and what is proven of that end."""
    proofs = {proof_key(record_id(UIDS[number])): {side: found} for side, (number, found) in ends.items()}
    return {"node": "", "proofs": proofs}


@pytest.fixture
def wide(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command against an API. Returns its exit status, the column VERIFIED, and the warnings."""
    monkeypatch.setattr(agents, "PATIENCE_SECONDS", 0.05)

    def run(api: StaticApi, output: str = "wide") -> tuple[int, list[str], str]:
        kubeconfig = write_kubeconfig(tmp_path, api.url)
        status = main(["links", "-n", "default", "-o", output, "--kubeconfig", kubeconfig])
        out, err = capsys.readouterr()
        heading, *rows = out.splitlines()
        start, stop = heading.find("VERIFIED"), heading.find("LINK")
        noted = [line for line in err.splitlines() if line.startswith("ratchet:")]
        return status, [row[start:stop].strip() for row in rows], "\n".join(noted)

    return run


def asked(api: StaticApi) -> list[str]:
    return [path for path, _ in api.requests if path.endswith("/proofs")]


def test_each_agent_is_asked_once_for_all_links(wide: Run) -> None:
    near = answer(primary=(0, end(3.2)), pair=(1, end(50.0, 50.0)))
    with serving(*PANEL, node_a=near, node_b=answer(pair=(0, end(7.0)))) as api:
        assert wide(api) == (0, ["7s ago", "silent 50s", "-"], "")
        assert len(asked(api)) == 2


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ([], "-"),
        ([end(None)], "-"),
        ([end(2.6), end(None)], "3s ago"),
        ([end(2.0), end(9.0)], "9s ago"),
        ([end(2.0), end(None, 40.0)], "silent 40s"),
        ([end(60.0, 60.0), end(None, 40.0)], "silent 60s"),
    ],
)
def test_two_ends_have_one_text(ends: list[dict[str, float | None]], text: str) -> None:
    assert proof_text(ends) == text


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ((403, {"message": "forbidden"}), "cannot ask the agent of node-b: forbidden"),
        ((404, "not found"), "cannot ask the agent of node-b: it is older than this command"),
        ((503, {"message": "refused"}), "cannot ask the agent of node-b: refused"),
    ],
)
def test_an_agent_that_cannot_be_asked_costs_its_ends_and_a_note(
    wide: Run, response: tuple[int, object], why: str
) -> None:
    with serving(*PANEL, node_a=answer(primary=(0, end(3.0))), node_b={}) as api:
        api.responses[f"{AGENT_PODS}/agent-of-node-b:9999/proxy/proofs"] = response
        assert wide(api) == (0, ["3s ago", "-", "-"], f"ratchet: VERIFIED may be incomplete: {why}")


def test_agents_that_cannot_be_listed_or_are_missing_are_one_note(wide: Run) -> None:
    with serving(*PANEL) as api:
        _, column, noted = wide(api)
        assert column == ["-", "-", "-"]
        assert noted == (
            "ratchet: VERIFIED may be incomplete: cannot ask the agent of node-a: "
            "no agent runs in a pod there, and others cannot be asked, and 1 more"
        )
        api.responses[AGENT_PODS] = 403, {"message": "forbidden"}
        _, _, noted = wide(api)
    assert noted == "ratchet: VERIFIED may be incomplete: cannot ask the agents: forbidden"


def test_no_agent_is_asked_without_a_tunnel_in_a_panel_or_for_another_format(wide: Run) -> None:
    direct = [replace(with_ready(vxlan(), *Side), vni=11, uid=UIDS[0]), replace(with_ready(veth(), *Side), name="x.y")]
    with serving(*direct, node_a=answer()) as api:
        assert wide(api) == (0, ["-", "-"], "")
        assert asked(api) == []
    with serving(*PANEL, node_a=answer()) as api:
        wide(api, "table")
        wide(api, "json")
        assert asked(api) == []
