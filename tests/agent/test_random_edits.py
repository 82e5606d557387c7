"""Topologies of a namespace that are edited at random while its pods run, restart, and lose their agents.

Operations on links come and go meanwhile. None outlives its removal.

At each quiet point, every link is as a fresh start would make it, and no interface was replaced without a reason.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ratchet.core.intent import wanted_links
from ratchet.core.model import State
from ratchet.core.naming import record_name
from ratchet.core.pod import Pod, Topology
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.support.cluster import CHAINED, Cluster, clean_cluster

THOROUGH = bool(os.environ.get("RATCHET_EXHAUSTIVE"))
PODS, LINKS, ROUNDS = 60, 200, 100 if THOROUGH else 8
TOPOLOGIES = 4
SECONDS = 120.0  # for a quiet point, on a busy machine
MTUS = {("direct", "local"): 1500, ("direct", "tunnel"): 1450, ("panel", "local"): 1450, ("panel", "tunnel"): 1450}

Endpoint = tuple[str, str]


@dataclass(frozen=True)
class Cable:
    """A declared link. `settings` are those of its item in the topology."""

    ends: tuple[Endpoint, Endpoint]
    wiring: str
    number: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def item(self) -> dict[str, Any]:
        endpoints = [":".join(end) for end in self.ends]
        addresses = [f"10.{self.number // 250}.{self.number % 250}.{host}/24" for host in (1, 2)]
        return {"endpoints": endpoints, "wiring": self.wiring, "addresses": addresses, **self.settings}


@dataclass
class Lab:
    """The pods of the namespace, their links, and why an interface may be another one than at the last quiet point."""

    cluster: Cluster
    dice: random.Random
    pods: dict[str, tuple[Kubelet, Sandbox]] = field(default_factory=dict)
    cables: dict[int, Cable] = field(default_factory=dict)
    interfaces: dict[Endpoint, dict[str, Any]] = field(default_factory=dict)
    replaceable: set[Endpoint] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10_000)))
    down: list[str] = field(default_factory=list)

    def start(self) -> None:
        for index in range(TOPOLOGIES):
            self.cluster.bed.create_topology(f"lab-{index}", "[]")
        for number in range(PODS):
            name, node = f"p{number}", self.dice.choice([self.cluster.a, self.cluster.b])
            self.pods[name] = node, self.cluster.pod(name, {"ratchet": "true"}, node)
        for _ in range(LINKS):
            self.add()
        self.declare()
        self.cluster.add_all(*self.pods.values())

    # Edits

    def free_endpoint(self, but: str = "") -> Endpoint:
        pod = self.dice.choice([name for name in self.pods if name != but])
        used = {ifname for cable in self.cables.values() for name, ifname in cable.ends if name == pod}
        return pod, next(name for name in (f"e{index}" for index in range(1000)) if name not in used)

    def add(self) -> None:
        number, near = next(self.numbers), self.free_endpoint()
        wiring = "direct" if number % 4 == 0 else "panel"
        self.cables[number] = Cable((near, self.free_endpoint(near[0])), wiring, number)

    def remove(self, cable: Cable) -> None:
        del self.cables[cable.number]
        self.replaceable |= set(cable.ends)

    def move(self, cable: Cable) -> None:
        """Lead one end to another pod. In panel wiring, the interface of the other end stays."""
        kept = self.dice.choice(cable.ends)
        self.cables[cable.number] = replace(cable, ends=(kept, self.free_endpoint(kept[0])))
        self.replaceable |= set(cable.ends) if cable.wiring == "direct" else set(cable.ends) - {kept}

    def adjust(self, cable: Cable) -> None:
        choices: list[dict[str, Any]] = [
            {"mtu": self.dice.choice([1280, 1400])},
            {"txqlen": self.dice.choice([5, 500])},
            {"rate": self.dice.choice(["10mbit", "100mbit"])},
            {"routes": [[{"to": f"192.0.{self.dice.randrange(200)}.0/24"}], None]},
            {},
        ]
        if cable.wiring == "panel":
            port = self.dice.choice([4790, 4793, 4796])
            choices += [{"state": "down"}, {"state": ["down", "up"]}, {"kind": "vxlan"}]
            choices += [{"vxlan_port": port}, {"kind": "vxlan", "vxlan_port": port}]
        self.cables[cable.number] = replace(cable, settings=self.dice.choice(choices))

    def edit(self) -> None:
        for _ in range(self.dice.randint(1, 12)):
            cable = self.dice.choice(list(self.cables.values()))
            act = self.dice.choice(["add", "remove", "move", "move", "adjust", "adjust", "adjust"])
            if act == "add":
                self.add()
            elif act == "remove":
                self.remove(cable)
            else:
                getattr(self, act)(cable)
        self.declare()

    def declare(self) -> None:
        for name in range(TOPOLOGIES):
            own = [cable.item for cable in self.cables.values() if cable.number % TOPOLOGIES == name]
            self.cluster.bed.edit_topology(f"lab-{name}", json.dumps(own))

    def break_off(self) -> None:
        """Write a topology that cannot be read, in the middle of other edits. Its links stay as they are."""
        self.cluster.bed.edit_topology(f"lab-{self.dice.randrange(TOPOLOGIES)}", '- {endpoints: ["p0:e0", ')

    def operate(self) -> None:
        """Set other operations on some of the links. Those on direct links are refused."""
        choices: list[dict[str, Any]] = [
            {"operation": "down"},
            {"operation": "down", "for": "200ms"},
            {"operation": "cut"},
            {"operation": "up"},
            {"operation": "flap", "times": 3, "down": "100ms", "up": "100ms"},
        ]
        chosen = self.dice.sample(list(self.cables.values()), self.dice.randint(0, 20))
        names = [record_name("default", *cable.ends) for cable in chosen]
        self.cluster.bed.set_operations({name: json.dumps(self.dice.choice(choices)) for name in names})

    # Faults

    def kill_agent(self) -> None:
        node = self.dice.choice("ab")
        if node not in self.down:
            self.cluster.bed.agents[node].kill()
            self.down.append(node)

    def restart_pod(self) -> None:
        """DEL and ADD of a pod, whose agent runs. Its direct links are made again at both ends."""
        name, (node, sandbox) = self.dice.choice(list(self.pods.items()))
        if node.host.name in self.down:
            return
        assert node.delete(sandbox).status == 0
        again = self.cluster.sandbox(node, sandbox.pod)
        self.cluster.add_all((node, again))
        self.pods[name] = node, again
        for cable in self.cables.values():
            if name in (pod for pod, _ in cable.ends):
                self.replaceable |= {end for end in cable.ends if cable.wiring == "direct" or end[0] == name}

    # Quiet points

    def settle(self) -> None:
        self.declare()
        self.cluster.bed.set_operations({})
        while self.down:
            self.cluster.bed.agents[self.down.pop()].start()
        wait_for("links as declared", self.is_settled, SECONDS)
        expected = {end: cable for cable in self.cables.values() for end in cable.ends}
        wait_for("interfaces as declared", lambda: not self.faults(expected), SECONDS)
        now = self.observe()
        kept = [end for end in self.interfaces if end in now and end not in self.replaceable and end in expected]
        for end in kept:
            before = self.interfaces[end]
            assert [now[end][key] for key in ("ifindex", "address")] == [
                before[key] for key in ("ifindex", "address")
            ], f"{end} was replaced"
        self.interfaces = now
        self.replaceable = {end for cable in self.cables.values() if cable.wiring == "direct" for end in cable.ends}

    def is_settled(self) -> bool:
        """Whether the records are those of the declared links, all linked, and no others."""
        pods = [Pod(one.pod, {"ratchet": "true"}, node=node.host.name) for node, one in self.pods.values()]
        text = json.dumps([cable.item for cable in self.cables.values()])
        wanted = {
            one.link.name: one.link for one in wanted_links(pods, topologies=[Topology("default", "lab", text)]).links
        }
        records = self.cluster.bed.links()
        if records.keys() != wanted.keys():
            return False
        linked = all(derive(record) is State.LINKED for record in records.values())
        if any(record.operation is not None for record in records.values()):
            return False
        return linked and all(record.intends_the_same_as(wanted[name]) for name, record in records.items())

    def observe(self) -> dict[Endpoint, dict[str, Any]]:
        found = {}
        for name, (_, sandbox) in self.pods.items():
            for one in json.loads(ip("-j", "-d", "-n", sandbox.netns, "addr", "show")):
                if one["ifname"] != "lo":
                    found[name, one["ifname"]] = one
        return found

    def faults(self, expected: dict[Endpoint, Cable]) -> list[str]:
        """What differs between the interfaces and what a fresh start would give."""
        seen = self.observe()
        found = [f"{end} is missing" for end in expected.keys() - seen.keys()]
        found += [f"{end} is left" for end in seen.keys() - expected.keys()]
        for end in expected.keys() & seen.keys():
            has, wants = seen[end], self.as_if_new(expected[end], end)
            found += [
                f"{end}: {key} {has_value}" for key, value in wants.items() if (has_value := _of(has, key)) != value
            ]
        return found

    def as_if_new(self, cable: Cable, end: Endpoint) -> dict[str, Any]:
        nodes = {self.pods[pod][0].host.name for pod, _ in cable.ends}
        path = "tunnel" if len(nodes) > 1 or cable.settings.get("kind") == "vxlan" else "local"
        return {
            "mtu": cable.settings.get("mtu", MTUS[cable.wiring, path]),
            "txqlen": cable.settings.get("txqlen", 1000),
            "qdisc": "tbf" if "rate" in cable.settings else "noqueue",
            "address": cable.item["addresses"][cable.ends.index(end)],
            "carrier": cable.settings.get("state") != "down",
        }


def _of(shown: dict[str, Any], key: str) -> Any:
    match key:
        case "carrier":
            return "NO-CARRIER" not in shown["flags"] and shown["operstate"] != "DOWN"
        case "address":
            own = [one for one in shown["addr_info"] if one["family"] == "inet"]
            return "/".join(str(own[0][part]) for part in ("local", "prefixlen")) if len(own) == 1 else own
    return shown[key]


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with clean_cluster(CHAINED, agent={}) as cluster:
        yield Lab(cluster, random.Random(request.param))


@pytest.mark.thorough
@pytest.mark.timeout(3000 if THOROUGH else 400)
@pytest.mark.parametrize("lab", [1] if not THOROUGH else list(range(10)), indirect=True)
def test_edited_links_are_as_if_new_and_no_other_interface_is_replaced(lab: Lab) -> None:
    lab.start()
    lab.settle()
    for _ in range(ROUNDS):
        for _ in range(lab.dice.randint(1, 4)):
            acts = [lab.edit, lab.edit, lab.edit, lab.operate, lab.break_off, lab.kill_agent, lab.restart_pod]
            lab.dice.choice(acts)()
        lab.settle()
