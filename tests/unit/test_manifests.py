"""The manifests: their rights are minimal, and docs/operations.md lists the permissions they grant."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratchet import __version__
from ratchet.agent.options import DEFAULT_HEALTH_ADDR
from ratchet.install import CONFIG, LAUNCHER

REPOSITORY = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")
Json = dict[str, Any]


# C's parser takes a tenth of the CPU.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def build(folder: str) -> list[Json]:
    return [one for one in yaml.load_all(rendered(folder), Loader=LOADER) if one]


@cache
def rendered(folder: str) -> str:
    command = [str(KUBECTL), "kustomize", str(REPOSITORY / "manifests" / folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


CONFIGURING = ("chained", "delegating", "daemonless")
OVERLAYS = (*CONFIGURING, "multus")


@pytest.fixture(scope="module")
def chained() -> list[Json]:
    return build("overlays/chained")


@pytest.fixture(scope="module")
def daemonless() -> list[Json]:
    return build("overlays/daemonless")


def of_kind(objects: list[Json], kind: str) -> list[Json]:
    return [one for one in objects if one["kind"] == kind]


def pod_specs(objects: list[Json]) -> dict[str, Json]:
    found = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in of_kind(objects, "DaemonSet")}
    for one in of_kind(objects, "CronJob"):
        found[one["metadata"]["name"]] = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


def containers(spec: Json) -> list[Json]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_the_default_manifest_is_the_chained_overlay(chained: list[Json]) -> None:
    assert build(".") == chained


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_uses_the_image_of_this_release(overlay: str) -> None:
    images = [one["image"] for spec in pod_specs(build(f"overlays/{overlay}")).values() for one in containers(spec)]
    assert set(images) == {f"ratchet:{__version__}"}


@pytest.mark.parametrize("overlay", ["chained", "daemonless", "multus"])
def test_every_container_has_minimal_rights(overlay: str) -> None:
    for name, spec in pod_specs(build(f"overlays/{overlay}")).items():
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for one in containers(spec):
            context = one["securityContext"]
            assert not context.get("privileged"), name
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"]["drop"] == ["ALL"], name
            added = context["capabilities"].get("add", [])
            assert added == (["NET_ADMIN", "NET_RAW", "SYS_ADMIN"] if one["name"] == "agent" else []), name
            assert one["resources"]["limits"]["memory"], name


def test_an_agent_that_delegates_has_the_rights_that_other_plugins_need(chained: list[Json]) -> None:
    specs = pod_specs(build("overlays/delegating"))
    agent = specs["ratchet-agent"]
    assert agent["hostPID"]
    (main,) = agent["containers"]
    added = main["securityContext"]["capabilities"]["add"]
    assert added == ["NET_ADMIN", "SYS_ADMIN", "SYS_CHROOT", "NET_RAW", "DAC_OVERRIDE"]
    assert "--host-root=/host/root" in main["args"]
    assert specs["ratchet-gc"] == pod_specs(chained)["ratchet-gc"]


def test_the_daemonless_overlay_has_no_objects_of_the_agent(daemonless: list[Json]) -> None:
    assert set(pod_specs(daemonless)) == {"ratchet-install", "ratchet-gc"}
    names = {one["metadata"]["name"] for one in daemonless}
    assert names == {"ratchet", "ratchet-critical", "ratchet-install", "ratchet-plugin", "ratchet-gc"}
    bindings = [*of_kind(daemonless, "RoleBinding"), *of_kind(daemonless, "ClusterRoleBinding")]
    bindings = [one for one in bindings if one["roleRef"]["name"] == "ratchet-plugin"]
    assert {one["subjects"][0]["name"] for one in bindings} == {"ratchet-install"}


@pytest.mark.parametrize("overlay", CONFIGURING)
def test_an_installer_is_ready_when_it_has_configured_the_network(overlay: str) -> None:
    (main,) = pod_specs(build(f"overlays/{overlay}"))["ratchet-install"]["containers"]
    (folder,) = [one["mountPath"] for one in main["volumeMounts"] if one["name"] == "networks"]
    assert main["readinessProbe"]["exec"]["command"] == ["test", "-f", f"{folder}/{CONFIG}"]
    assert folder in " ".join(main["args"])


@pytest.mark.parametrize("overlay", ["chained", "delegating"])
def test_the_kubelet_probes_the_agent_at_the_default_of_health_addr(overlay: str) -> None:
    spec = pod_specs(build(f"overlays/{overlay}"))["ratchet-agent"]
    (main,) = spec["containers"]
    assert spec["hostNetwork"], "else 127.0.0.1 is not the address of the agent's network namespace"
    ports = {one["name"]: one["containerPort"] for one in main["ports"]}
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        target = main[probe]["httpGet"]
        assert (f"{target['host']}:{ports[target['port']]}", target["path"]) == (DEFAULT_HEALTH_ADDR, path)


def test_the_installer_beside_multus_configures_no_network() -> None:
    (main,) = pod_specs(build("overlays/multus"))["ratchet-install"]["containers"]
    assert not any("--conf-dir" in one for one in main["args"])
    (folder,) = [one["mountPath"] for one in main["volumeMounts"] if one["name"] == "plugins"]
    assert main["readinessProbe"]["exec"]["command"] == ["test", "-x", f"{folder}/{LAUNCHER}"]
    assert folder in main["args"]


def test_every_workload_has_its_own_service_account(chained: list[Json]) -> None:
    accounts = {name: spec["serviceAccountName"] for name, spec in pod_specs(chained).items()}
    assert accounts == {name: name for name in ("ratchet-agent", "ratchet-install", "ratchet-gc")}
    assert {one["metadata"]["name"] for one in of_kind(chained, "ServiceAccount")} == set(accounts.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_quota_allows_every_priority_class_of_the_pods(overlay: str) -> None:
    """GKE allows critical priority classes only in namespaces that have a quota for them."""
    objects = build(f"overlays/{overlay}")
    used = {spec["priorityClassName"] for spec in pod_specs(objects).values() if "priorityClassName" in spec}
    (quota,) = of_kind(objects, "ResourceQuota")
    (scope,) = quota["spec"]["scopeSelector"]["matchExpressions"]
    assert quota["metadata"]["namespace"] == "ratchet"
    assert (scope["scopeName"], scope["operator"], set(scope["values"])) == ("PriorityClass", "In", used)
    assert set(quota["spec"]["hard"]) == {"pods"}, "a quota for compute resources would require limits"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_of_gc_allows_an_api_server_at_any_port(overlay: str) -> None:
    (policy,) = of_kind(build(f"overlays/{overlay}"), "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "ratchet-gc"}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "TCP"}]}]


def test_install_md_narrows_the_network_policy(tmp_path: Path) -> None:
    """Apply the documented overlay to the manifests of this checkout."""
    text = (REPOSITORY / "docs" / "install.md").read_text()
    section = text.partition("### Network policy\n")[2].partition("\n### ")[0]
    overlay = section.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "ratchet").symlink_to(REPOSITORY)
    (tmp_path / "kustomization.yaml").write_text(overlay)
    (policy,) = of_kind(build(str(tmp_path)), "NetworkPolicy")
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "192.0.2.10/32"}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6443}]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_volume_is_mounted_by_a_container(overlay: str) -> None:
    for name, spec in pod_specs(build(f"overlays/{overlay}")).items():
        used = {mount["name"] for one in containers(spec) for mount in one.get("volumeMounts", [])}
        assert used == {volume["name"] for volume in spec.get("volumes", [])}, name


COMPONENTS = {
    "k3s": ("/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    "microk8s": ("/var/snap/microk8s/current/opt/cni/bin", "/var/snap/microk8s/current/args/cni-network"),
    "openshift": ("/var/lib/cni/bin", None),
}


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_sets_the_folders_of_a_distribution(component: str, tmp_path: Path) -> None:
    plugins, networks = COMPONENTS[component]
    manifests = os.path.relpath(REPOSITORY / "manifests", tmp_path)
    overlay = "chained" if networks else "multus"
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{manifests}/overlays/{overlay}]\ncomponents: [{manifests}/components/{component}]\n"
    )
    objects = build(str(tmp_path))
    specs = pod_specs(objects)
    folders = {
        (name, volume["name"]): volume["hostPath"]["path"]
        for name, spec in specs.items()
        for volume in spec.get("volumes", [])
        if volume["name"] in ("plugins", "networks")
    }
    expected = {("ratchet-agent", "plugins"): plugins, ("ratchet-install", "plugins"): plugins}
    assert folders == expected | ({("ratchet-install", "networks"): networks} if networks else {})
    text = (REPOSITORY / "docs" / "install.md").read_text()
    assert f"components/{component}" in text


def test_operations_md_lists_the_granted_permissions(chained: list[Json], daemonless: list[Json]) -> None:
    text = (REPOSITORY / "docs" / "operations.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    documented = {
        (one["kind"], one["metadata"]["name"]): one["rules"]
        for block in blocks
        if "kind: ClusterRole" in block or "kind: Role" in block
        for one in yaml.safe_load_all(block)
    }
    del documented["Role", "ratchet-look"]  # a role for users, which no manifest contains
    granted = {
        (one["kind"], one["metadata"]["name"]): one["rules"]
        for kind in ("ClusterRole", "Role")
        for one in of_kind([*chained, *daemonless], kind)
    }
    assert documented == granted
