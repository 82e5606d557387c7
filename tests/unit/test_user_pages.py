"""The pages for users: valid manifests, tables that match the code, links that have a target."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet.cli.main import main
from ratchet.core.intent import TOPOLOGY_LABEL
from ratchet.core.intent.link_parser import PROPERTIES
from ratchet.core.intent.topologies import Faulty, drawn_links
from ratchet.core.pod import Topology
from ratchet.core.sysctls import ALLOWED
from ratchet.store.codec.operations import decode_operations, is_operations

REPOSITORY = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")
PAGES = (
    *("README.md", "SECURITY.md"),
    *(f"docs/{name}.md" for name in ("quickstart", "concepts", "topologies", "install", "from-2017", "comparison")),
)
README_LINES = 120
Json = dict[str, Any]


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [block.partition("```")[0] for block in text_of(page).split(f"```{language}\n")[1:]]


def objects(kind: str) -> Iterator[tuple[str, Json]]:
    """Each object of a kind in the YAML of the pages, with its page."""
    for page in PAGES:
        for block in blocks(page, "yaml"):
            yield from (
                (page, one) for one in yaml.safe_load_all(block) if isinstance(one, dict) and one["kind"] == kind
            )


def section(page: str, heading: str) -> str:
    return text_of(page).partition(f"\n{heading}\n")[2].partition("\n#")[0]


def test_the_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES)
def test_links_to_sections_have_a_target(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text_of(page)):
        path = REPOSITORY / page if not target else (REPOSITORY / page).parent / target
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}, (target, anchor)


@pytest.mark.parametrize("package", ["core", "cni", "store", "datapath", "node", "agent", "install"])
def test_architecture_md_lists_every_module(package: str) -> None:
    modules = {path.stem for path in (REPOSITORY / "ratchet" / package).glob("[!_]*.py")}
    listed = re.findall(r"`(\w+)`", section("docs/architecture.md", f"### Modules of {package}"))
    assert modules - set(listed) == set()


def test_manifests_are_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = [*((page, one) for page, one in objects("ConfigMap") if "links" in one["data"]), *objects("Pod")]
    assert len(found) >= 3
    for page, one in found:
        pods = [pod(name) for name in named_pods(one) if name != one["metadata"]["name"]]
        file = tmp_path / "manifest.yaml"
        file.write_text(yaml.safe_dump_all([one, *pods]))
        status = main(["validate", str(file)])
        assert status == 0, (page, capsys.readouterr().out)


def test_the_example_of_an_operation_is_valid() -> None:
    ((_, config_map),) = ((page, one) for page, one in objects("ConfigMap") if "links" not in one["data"])
    assert is_operations(config_map, TOPOLOGY_LABEL)
    operations = decode_operations(config_map)
    assert operations is not None
    assert [one.words for one in operations.valid.values()] == ["cut from r1:eth1"]


def named_pods(one: Json) -> set[str]:
    """The pods that a topology, or the annotation of a pod, names."""
    annotations = one["metadata"].get("annotations", {})
    links = yaml.safe_load(one.get("data", {}).get("links") or annotations["ratchet.links"])
    endpoints = {endpoint.partition(":")[0] for link in links for endpoint in link.get("endpoints", [])}
    return endpoints | {link["peer"] for link in links if "peer" in link}


def pod(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"ratchet": "true"}}, "spec": {}}


def test_overlays_build(tmp_path: Path) -> None:
    found = list(objects("Kustomization"))
    assert len(found) == 8
    (tmp_path / "network.conf").write_text(blocks("docs/install.md", "json")[0])
    manifests = os.path.relpath(REPOSITORY / "manifests", tmp_path)
    for page, one in found:
        for key in {"resources", "components"} & one.keys():
            one[key] = [re.sub(r"^.*?manifests", manifests, path) for path in one[key]]
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(one))
        done = subprocess.run([str(KUBECTL), "kustomize", str(tmp_path)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, (page, done.stderr)
        assert set(re.findall(r"image: (\S+)", done.stdout)) == {
            f"{one['images'][0]['newName']}:{one['images'][0]['newTag']}"
        }
        patches = yaml.safe_dump(one.get("patches", []))
        assert all(value in done.stdout for value in re.findall(r"value: (--\S+?)\}", patches))
        without_topologies = "$patch: delete" in patches or "daemonless" in one["resources"][0]
        assert ("name: ratchet-topologies" in done.stdout) != without_topologies
        if "# --conf-dir" in patches:
            assert "--conf-dir" not in done.stdout


def test_every_field_of_a_link_is_described() -> None:
    assert set(re.findall(r"^### (\w+)$", text_of("docs/topologies.md"), re.MULTILINE)) == PROPERTIES
    assert set(re.findall(r"^\| \[`(\w+)`\]", text_of("docs/topologies.md"), re.MULTILINE)) == PROPERTIES


@pytest.mark.parametrize("field", sorted(PROPERTIES))
def test_the_example_of_a_field_is_valid(field: str) -> None:
    (example,) = re.findall(r"^\| example \| `(.+)` \|$", section("docs/topologies.md", f"### {field}"), re.MULTILINE)
    parsed = yaml.safe_load(example)
    assert list(parsed) == [field]
    addresses = {"addresses": ["10.0.0.1/24", "10.0.0.2/24"]} if field == "routes" else {}
    text = yaml.safe_dump([{"endpoints": ["a:x", "b:y"], **addresses, **parsed}])
    assert not any(isinstance(one, Faulty) for one in drawn_links(Topology("default", "lab", text), {"lo", "eth0"}))


def test_every_sysctl_is_listed() -> None:
    listed = set()
    for prefixes, names in re.findall(
        r"^\| (`net\..+?) \| (.+) \|$", section("docs/topologies.md", "### sysctls"), re.MULTILINE
    ):
        listed |= {p + n for p in re.findall(r"`([^`]+)`", prefixes) for n in re.findall(r"`([^`]+)`", names)}
    assert listed == ALLOWED


@pytest.mark.parametrize(("overlay", "left_out"), [("chained", set()), ("daemonless", {"ratchet-agent"})])
def test_security_lists_every_permission(overlay: str, left_out: set[str]) -> None:
    done = subprocess.run(
        [str(KUBECTL), "kustomize", str(REPOSITORY / "manifests" / "overlays" / overlay)],
        check=True,
        capture_output=True,
        text=True,
    )
    built = [one for one in yaml.safe_load_all(done.stdout) if one]
    accounts = {
        one["roleRef"]["name"]: [subject["name"] for subject in one["subjects"]]
        for one in built
        if one["kind"].endswith("RoleBinding")
    }
    granted = {
        (*accounts[one["metadata"]["name"]], one["kind"], one["metadata"]["name"], resource, tuple(rule["verbs"]))
        for one in built
        if one["kind"] in ("ClusterRole", "Role")
        for rule in one["rules"]
        for resource in rule["resources"]
    }
    assert {row for row in permissions() if row[0] not in left_out and row[2] in accounts} == granted


def permissions() -> set[tuple[Any, ...]]:
    """Account, kind and name of the role, resource and verbs, of each row of the tables in SECURITY.md."""
    account = kind = name = ""
    found = set()
    for line in section("SECURITY.md", "## Accounts").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] in ("account", "---"):
            continue
        account = cells[0].strip("`") or account
        if cells[1]:
            kind, name = re.fullmatch(r"(\w+) `(.+)`", cells[1]).groups()  # type: ignore[union-attr]
        resource = cells[3].partition("`, named")[0].strip("`")
        found.add((account, kind, name, resource, tuple(cells[4].split(", "))))
    return found
