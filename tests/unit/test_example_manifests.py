"""The example manifests: they are valid, and the nodes of the tests have their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.cli.main import main
from ratchet.cli.validate import read_objects
from ratchet.cni.config import read_config
from ratchet.core.intent import wanted_links
from ratchet.core.model import End
from ratchet.core.pod import Pod, Topology
from ratchet.dev.cluster import frr, images
from ratchet.install.chain import NetworkFile

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
LABELS, TOPOLOGY = "cloud-router/labels.yaml", "cloud-router/topology.yaml"
ATTACHMENT, FLANNEL = "multus/attachment.yaml", "multus/flannel.yaml"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
Json = dict[str, Any]


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("two-pods/two-pods.yaml", "2 pods, 1 link"),
        (LABELS, "4 pods, 3 links"),
        (TOPOLOGY, "4 pods, 3 links"),
        ("ring/ring.yaml", "5 pods, 5 links"),
        ("mesh/mesh.yaml", "6 pods, 15 links"),
        ("clos/clos.yaml", "6 pods, 8 links"),
        (ATTACHMENT, "2 pods, 1 link"),
    ],
)
def test_an_example_is_valid(file: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--strict", str(EXAMPLES / file)]) == 0
    assert capsys.readouterr().out == f"{said}: 0 errors, 0 warnings\n"


def test_the_cloud_router_has_the_same_links_by_labels_and_by_topology() -> None:
    assert links(LABELS) == links(TOPOLOGY)


def test_the_cloud_router_manifests_differ_only_in_their_declarations() -> None:
    assert without_links(LABELS) == without_links(TOPOLOGY)


def test_the_attachment_of_multus_is_a_valid_configuration_that_its_pods_name() -> None:
    definition, _, *pods = objects(ATTACHMENT)
    network = read_config(definition["spec"]["config"].encode())
    assert (network.type, network.unknown) == ("ratchet", ())
    assert [pod["metadata"]["annotations"] for pod in pods] == [{NETWORKS: definition["metadata"]["name"]}] * 2
    (link,) = links(ATTACHMENT).values()
    assert not any(ifname.startswith("net") for ifname in (end.ifname for end in link.values()))


def test_the_network_below_multus_ends_with_ratchet() -> None:
    (config_map,) = objects(FLANNEL)
    network = json.loads(config_map["data"]["cni-conf.json"])
    assert [plugin["type"] for plugin in network["plugins"]] == ["flannel", "portmap", "ratchet"]
    file = NetworkFile(Path("10-flannel.conflist"), network)
    assert (file.has_ratchet, file.meta_plugin) == (True, "")
    head = {key: network[key] for key in ("cniVersion", "name")}
    assert read_config(json.dumps({**network["plugins"][-1], **head}).encode()).unknown == ()


def test_the_nodes_of_the_tests_have_the_images_of_the_examples() -> None:
    files = [str(file.relative_to(EXAMPLES)) for file in EXAMPLES.glob("*/*.yaml")]
    specs = [pod["spec"] for file in files for pod in map(pod_of, objects(file)) if pod is not None]
    found = {one["image"] for spec in specs for one in (*spec.get("initContainers", []), *spec["containers"])}
    assert found == {frr.NAME, images.BUSYBOX.removeprefix("docker.io/library/")}


def objects(file: str) -> list[Json]:
    return list(yaml.safe_load_all((EXAMPLES / file).read_text()))


def pod_of(one: Json) -> Json | None:
    """A pod's metadata and spec: the object itself, or a workload's template."""
    template: Json = one.get("spec", {}).get("template", one)
    return template if "containers" in template.get("spec", {}) else None


def links(file: str) -> dict[str, dict[str, End]]:
    read = list(read_objects(file, (EXAMPLES / file).read_text(), "default"))
    pods = [one for one in read if isinstance(one, Pod)]
    wanted = wanted_links(pods, topologies=[one for one in read if isinstance(one, Topology)])
    return {one.link.name: {end.name: end for end in (one.link.primary, one.link.pair)} for one in wanted.links}


def without_links(file: str) -> list[Json]:
    kept = [one for one in objects(file) if "ratchet.topology" not in one["metadata"].get("labels", {})]
    for pod in map(pod_of, kept):
        if pod is not None:
            labels = pod["metadata"]["labels"]
            pod["metadata"]["labels"] = {key: labels[key] for key in labels if not key.startswith("ratchet.")}
    return kept
