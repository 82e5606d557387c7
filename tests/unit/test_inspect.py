"""`ratchet inspect`: link selection, queries to the agents, and ends whose agent cannot be queried."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli.inspect import NAMES_MAX, find_link, observe_ends
from ratchet.cli.main import main
from ratchet.core.model import Link, Side
from ratchet.errors import RatchetError
from ratchet.store import agents
from tests.support.http_server import write_kubeconfig
from tests.support.links import RECORD, joined, own, veth, vxlan, wanted, with_ready
from tests.support.static_api import StaticApi, serving

Captured = pytest.CaptureFixture[str]
Json = dict[str, Any]

UID = "7f2c9a52-0000-4000-8000-000000000001"
OBSERVATION: Json = {"device": {"ifname": "in1", "mtu": 1450}, "live": None, "differences": [], "fault": ""}


def named(link: Link, name: str) -> Link:
    return replace(link, name=name, namespace=name.partition(".")[0])


# Link selection


LINKS = [named(wanted(), name) for name in ("default.a.in1.b.in2", "default.a.in10.c.in2", "lab.a.in1.b.in2")]


@pytest.mark.parametrize(
    ("said", "namespace", "name"),
    [
        ("lab", "default", "lab.a.in1.b.in2"),
        ("default.a.in1.", "lab", "default.a.in1.b.in2"),
        ("a.in10", "default", "default.a.in10.c.in2"),
        ("a", "lab", "lab.a.in1.b.in2"),
    ],
)
def test_a_name_prefix_selects_a_link(said: str, namespace: str, name: str) -> None:
    assert find_link(LINKS, said, namespace).name == name


def test_either_endpoint_selects_a_link_of_the_namespace() -> None:
    sandbox = replace(own(Side.PRIMARY), pod=replace(own(Side.PRIMARY).pod, name="primary-pod-7f9c"))
    links = [joined(sandbox, None), named(wanted(), "lab.pair-pod.in2.primary-pod.in1")]
    for end in ("primary-pod:in1", "pair-pod:in2", "primary-pod-7f9c:in1"):
        assert find_link(links, end, "default").name == RECORD
    for end in ("primary-pod:in2", "primary-pod:", "primary-pod-7f9:in1"):
        with pytest.raises(RatchetError, match=f"cannot find link {end} in namespace default"):
            find_link(links, end, "default")


def test_an_ambiguous_name_is_rejected_with_the_matching_links() -> None:
    with pytest.raises(RatchetError, match="cannot inspect link a: several links match") as caught:
        find_link(LINKS, "a", "default")
    assert caught.value.details == "default.a.in1.b.in2, default.a.in10.c.in2"
    many = [named(wanted(), f"default.a.in{number}.b.in2") for number in range(NAMES_MAX + 3)]
    with pytest.raises(RatchetError) as caught:
        find_link(many, "default", "default")
    assert caught.value.details.endswith(", and 3 more")


# Queries to agents


def test_an_agent_is_queried_once_for_both_ends_on_its_node() -> None:
    asked = []

    def query(node: str, uid: str) -> Json:
        asked.append((node, uid))
        return {"at": "then", "ends": {side.value: {**OBSERVATION, "differences": [side.value]} for side in Side}}

    found = observe_ends(replace(veth(), uid=UID), query)
    assert asked == [("node-a", UID)]
    assert [found[side]["differences"] for side in Side] == [["primary"], ["pair"]]
    assert found[Side.PAIR]["node"] == "node-a"
    assert found[Side.PAIR]["at"] == "then"


def test_a_failed_query_does_not_hide_the_end_of_the_other_agent() -> None:
    def query(node: str, uid: str) -> Json:
        if node == "node-b":
            raise RatchetError("cannot ask the agent of node-b: why")
        return {"at": "then", "ends": {"primary": OBSERVATION}}

    found = observe_ends(replace(vxlan(), uid=UID), query)
    assert found[Side.PRIMARY] == {"node": "node-a", "at": "then", **OBSERVATION}
    nothing: Json = {"device": None, "live": None, "differences": []}
    assert found[Side.PAIR] == {
        "node": "node-b",
        "at": None,
        **nothing,
        "fault": "cannot ask the agent of node-b: why",
        "proof": None,
    }


def test_only_joined_ends_are_observed() -> None:
    asked = []

    def query(node: str, uid: str) -> Json:
        asked.append((node, uid))
        return {"at": "then", "ends": {}}

    found = observe_ends(replace(joined(None, own(Side.PAIR, "node-b")), uid=UID), query)
    assert asked == [("node-b", UID)]
    assert list(found) == [Side.PAIR]
    assert found[Side.PAIR]["fault"] == "the agent of its node does not know this sandbox"


# Through the API server


@pytest.fixture
def inspect(tmp_path: Path, capsys: Captured) -> Any:
    """Function that runs the command against an API and returns its exit status, stdout and stderr."""

    def run(api: StaticApi, *arguments: str) -> tuple[int, str, str]:
        status = main(["inspect", *arguments, "--kubeconfig", write_kubeconfig(tmp_path, api.url)])
        return (status, *capsys.readouterr())

    return run


LINKED = replace(with_ready(vxlan(), *Side), vni=11, uid=UID)
ANSWER = {"at": "2026-03-04T05:06:07+00:00", "ends": {"primary": OBSERVATION}}


def test_a_link_is_shown_with_the_observations_of_its_agents(inspect: Any) -> None:
    with serving(LINKED, node_a=ANSWER, node_b={"at": None, "ends": {"pair": OBSERVATION}}) as api:
        status, out, err = inspect(api, "pair-pod:in2")
    assert (status, err) == (0, "")
    assert out.splitlines()[0].split() == ["Name:", RECORD]
    assert out.count("1450") == 2
    assert "Not observed" not in out


def test_json_output_has_the_state_and_the_observations(inspect: Any) -> None:
    with serving(LINKED, node_a=ANSWER) as api:
        status, out, _ = inspect(api, RECORD, "-o", "json")
    shown = json.loads(out)
    assert (status, shown["name"], shown["state"]) == (0, RECORD, "linked")
    assert shown["observed"]["primary"] == {"node": "node-a", "at": ANSWER["at"], **OBSERVATION}
    assert (
        shown["observed"]["pair"]["fault"]
        == "cannot ask the agent of node-b: no agent runs in a pod there, and others cannot be asked"
    )
    paths = [path for path, _ in api.requests]
    assert "/api/v1/namespaces/ratchet/configmaps" not in paths  # a full name needs no permission to list
    (query, *_) = [query for path, query in api.requests if path.endswith("/ratchet/pods")]
    assert query["labelSelector"] == ["app.kubernetes.io/name=ratchet-agent"]


FORBIDDEN = 'pods "agent-of-node-a:9999" is forbidden: User "jane" cannot get resource "pods/proxy"'


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((403, {"message": FORBIDDEN}), FORBIDDEN),
        ((404, "no link"), "it knows of no such link, or is older than this command"),
        ((503, {"message": "error trying to reach service: refused"}), "error trying to reach service: refused"),
        ((400, {"message": "no"}), "no"),
    ],
)
def test_the_cause_of_a_failed_query_is_shown_with_the_rest_of_the_link(
    inspect: Any, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, object], why: str
) -> None:
    monkeypatch.setattr(agents, "PATIENCE_SECONDS", 0.05)
    with serving(LINKED, node_a=ANSWER, node_b=ANSWER) as api:
        path = next(one for one in api.responses if "agent-of-node-a" in one)
        api.responses[path] = answer
        status, out, err = inspect(api, RECORD)
    assert (status, err) == (0, "")
    assert f"  Not observed:  cannot ask the agent of node-a: {why}\n" in out
    assert UID not in out
    assert "192.168.2.100/24" in out


def test_a_terminating_agent_pod_is_not_queried(inspect: Any) -> None:
    with serving(LINKED, node_a=ANSWER) as api:
        _, answer = api.responses["/api/v1/namespaces/ratchet/pods"]
        assert isinstance(answer, dict)
        answer["items"][0]["metadata"]["deletionTimestamp"] = "2026-03-04T05:06:07Z"
        _, out, _ = inspect(api, RECORD)
    assert "cannot ask the agent of node-a: no agent runs in a pod there, and others cannot be asked" in out


def test_an_unknown_link_is_an_error(inspect: Any) -> None:
    with serving(LINKED) as api:
        status, out, err = inspect(api, "nothing", "-n", "lab")
    assert (status, out) == (1, "")
    assert err.startswith("ratchet: cannot find link nothing in namespace lab: ")
