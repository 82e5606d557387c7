"""The walk-throughs of the documentation, command by command, and the checks of the example of 2017."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

from ratchet.dev.building import REPOSITORY
from tests.e2e.world import KUBECTL, RATCHET, World

DOCS = REPOSITORY / "docs"
EXAMPLES = REPOSITORY / "manifests" / "examples"
LABELS = "ratchet.state,ratchet.kind,ratchet.vni"


def walk_through(world: World, file: str) -> None:
    """Apply an example of 2017, check the link, its record and pings, and delete it without leftovers."""
    world.kubectl("apply", "-f", "-", stdin=_example(file))
    world.wait("condition=Ready", "pod/primary-pod", "pod/pair-pod")
    kind = "vxlan" if file == "example.yaml" else "veth"
    device = world.device("primary-pod", "in1")
    assert device["linkinfo"]["info_kind"] == kind
    assert device["operstate"] in ("UP", "UNKNOWN")
    if kind == "vxlan":
        data = device["linkinfo"]["info_data"]
        assert (data["id"], data["remote"], data["port"]) == (world.vni(), world.b.address, 4789)
        assert device["mtu"] == 1450
    assert world.pings("primary-pod", "192.168.2.101")
    assert world.pings("pair-pod", "192.168.2.100")
    shown = world.kubectl("get", "configmap", "-n", RATCHET, "-L", LABELS)
    line = next(line for line in shown.splitlines() if line.startswith(world.namespace))
    assert {"linked", kind} <= set(line.split())
    world.delete_pods("primary-pod", "pair-pod")
    world.wait_until_nothing_is_left()


def run_page(world: World, folder: Path, page: str, first: str, last: str) -> int:
    """Run the commands between two lines of a page of docs/, and return their number.

    Each command has to succeed and to print the words that the page shows.
    """
    steps = list(commands_between(page, first, last))
    for command, shown in steps:
        printed = run_as_written(world, folder, command)
        assert stable_words(shown) - set(printed.split()) == set(), f"{command}: {printed}"
    world.wait_until_nothing_is_left()
    return len(steps)


def commands_between(page: str, first: str, last: str) -> Iterator[tuple[str, str]]:
    """The commands between two lines of a page of docs/, with the output that the page shows for each."""
    section = (DOCS / page).read_text().partition(f"\n{first}\n")[2].partition(f"\n{last}\n")[0]
    for block in re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
        for step in block.removeprefix("$ ").split("\n$ "):
            command, _, printed = step.partition("\n")
            yield command, printed


def run_as_written(world: World, folder: Path, command: str) -> str:
    """Run a command of a page with the test's nodes and namespace, and return its output."""
    example = folder / "example.yaml"
    example.write_text(_example("example.yaml"))
    kubeconfig = json.loads(world.kubectl("config", "view", "--raw", "-o", "json"))
    kubeconfig["contexts"][0]["context"]["namespace"] = world.namespace
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    command = command.replace("kubectl label", "kubectl label --overwrite")  # the nodes have these labels already
    for written, replacement in (
        ("kube-minion-1", "node-a"),
        ("kube-minion-2", "node-b"),
        ("manifests/examples/example.yaml", str(example)),
        ("manifests/examples/", f"{EXAMPLES}/"),
    ):
        command = command.replace(written, replacement)
    path = f"{KUBECTL.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KUBECONFIG": str(folder / "kubeconfig")}
    done = subprocess.run(
        ["sh", "-ec", command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
    return done.stdout


def stable_words(printed: str) -> set[str]:
    """The words of an output that do not vary: words without digits that name no node and no namespace."""
    return {word for word in printed.split() if not re.search(r"\d|minion|…|^default$", word)}


def _example(file: str) -> str:
    """An example of 2017 with an image that the nodes have, and a shell of that image."""
    text = (EXAMPLES / file).read_text()
    text = text.replace("dougbtv/centos-network", "localhost/tools:1").replace("/bin/bash", "/bin/sh")
    return yaml.safe_dump_all(one for one in yaml.safe_load_all(text) if one)
