"""Meta plugins: Ratchet is never chained after one, and its file never runs one."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli.main import main
from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG
from ratchet.install.conflist import configure
from ratchet.install.loop import InstallLoop

PODS = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "flannel", "delegate": {"isDefaultGateway": True}}]}
CHAINED = {**PODS, "plugins": [*PODS["plugins"], {"type": "ratchet"}]}
# As the daemon of Multus writes it. The folder is mounted at another path in its pod.
SHIM = {"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus-shim"}
TO_PODS = {**SHIM, "clusterNetwork": "/host/etc/cni/net.d/10-pods.conflist"}
TO_RATCHET = {**SHIM, "clusterNetwork": f"/host/etc/cni/net.d/{CONFIG}"}
# Ratchet's file, as 0.1.0 wrote it beside Multus.
ENDLESS = {
    "cniVersion": "1.0.0",
    "name": "multus-cni-network",
    "plugins": [
        {"type": "multus-shim", "clusterNetwork": f"/host/etc/cni/net.d/{CONFIG}"},
        {"type": "ratchet"},
    ],
}


def copying(master: dict[str, Any]) -> dict[str, Any]:
    """The configuration of Multus without a daemon, which copies its master into `delegates`."""
    head = {"cniVersion": "1.0.0", "name": "multus-cni-network"}
    return {**head, "plugins": [{"type": "multus", "delegates": [master]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "net.d"
    folder.mkdir()
    put(folder, "10-pods.conflist", PODS)
    return folder


def put(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def own(folder: Path) -> Any:
    path = folder / CONFIG
    return json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (TO_PODS, "multus-shim"),
        (copying(PODS), "multus"),
        ({"name": "genie", "type": "genie", "default_plugin": "flannel"}, "genie"),
        ({"name": "meta_cni", "type": "danm", "kubeconfig": "/etc/kubernetes/danm.kubeconfig"}, "danm"),
        ({"type": "galaxy-sdn", "capabilities": {"portMappings": True}}, "galaxy-sdn"),
        ({"name": "fork", "type": "fork", "clusterNetwork": "/etc/cni/net.d"}, "fork"),
        ({"name": "fork", "type": "fork", "delegates": [{"type": "flannel"}]}, "fork"),
        ({"name": "fork", "type": "fork", "masterplugin": True}, "fork"),
        ({"name": "late", "plugins": [{"type": "bridge"}, {"type": "multus"}]}, "multus"),
        ({"name": "inner", "type": "bridge", "delegate": {"type": "multus-shim"}}, "multus-shim"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_ratchet_is_not_chained_after_a_meta_plugin(network: dict[str, Any], named: str, folder: Path) -> None:
    put(folder, "00-meta.conflist", network)
    with pytest.raises(
        RatchetError, match=f"the first network, 00-meta.conflist, is the meta plugin {named}$"
    ) as error:
        configure(folder)
    assert f"chain ratchet inside the network that {named} delegates to" in error.value.details
    assert own(folder) is None


@pytest.mark.parametrize(
    "plugin",
    [
        {"type": "flannel", "delegate": {"isDefaultGateway": True}},
        {"type": "macvlan", "master": "eth0"},
        {"type": "coordinator", "mode": "underlay"},
        {"type": "x", "delegates": None},
        {"type": ["multus"]},
    ],
    ids=lambda plugin: str(plugin["type"]),
)
def test_ratchet_is_chained_after_a_plugin_that_delegates_to_no_network(plugin: dict[str, Any], folder: Path) -> None:
    put(folder, "05-first.conflist", {"name": "first", "plugins": [plugin]})
    assert configure(folder)
    assert own(folder)["plugins"] == [plugin, {"type": "ratchet"}]


def test_a_meta_plugin_that_the_runtime_does_not_use_is_ignored(folder: Path) -> None:
    put(folder, "70-multus.conf", TO_PODS)
    assert configure(folder)
    assert own(folder) == CHAINED


@pytest.mark.parametrize(
    ("multus", "before"),
    [(TO_RATCHET, CHAINED), (copying(CHAINED), CHAINED), (TO_RATCHET, ENDLESS), (copying(ENDLESS), ENDLESS)],
    ids=["path", "copy", "endless path", "endless copy"],
)
def test_a_file_that_multus_delegates_to_follows_the_network(
    multus: dict[str, Any], before: dict[str, Any], folder: Path
) -> None:
    """Multus has taken Ratchet's file as its master. A file that runs Multus itself is repaired."""
    put(folder, CONFIG, before)
    put(folder, "00-multus.conf", multus)
    configure(folder)
    assert own(folder) == CHAINED
    put(folder, "10-pods.conflist", {**PODS, "plugins": [{"type": "ptp"}]})
    assert configure(folder)
    assert own(folder)["plugins"] == [{"type": "ptp"}, {"type": "ratchet"}]


def test_a_missing_file_that_multus_delegates_to_is_written(folder: Path) -> None:
    put(folder, "00-multus.conf", TO_RATCHET)
    assert configure(folder)
    assert own(folder) == CHAINED


def test_ratchet_is_not_chained_again_if_the_master_of_multus_has_it(folder: Path) -> None:
    put(folder, "10-pods.conflist", CHAINED)
    put(folder, "00-multus.conflist", copying(CHAINED))
    with pytest.raises(RatchetError, match=r"is the meta plugin multus$"):
        configure(folder)
    assert own(folder) is None


@pytest.mark.parametrize("multus", [TO_PODS, TO_RATCHET], ids=["before its restart", "after its restart"])
def test_a_file_that_runs_a_meta_plugin_is_removed_if_it_cannot_be_repaired(
    multus: dict[str, Any], folder: Path
) -> None:
    put(folder, CONFIG, ENDLESS)
    put(folder, "00-multus.conf", multus)
    if multus is TO_RATCHET:
        (folder / "10-pods.conflist").unlink()
    with pytest.raises(RatchetError):
        configure(folder)
    assert own(folder) is None


def test_a_file_without_a_meta_plugin_is_kept_if_multus_delegates_to_another_one(folder: Path) -> None:
    put(folder, CONFIG, CHAINED)
    put(folder, "00-multus.conf", TO_PODS)
    with pytest.raises(RatchetError, match="is the meta plugin multus-shim"):
        configure(folder)
    assert own(folder) == CHAINED


def test_a_network_that_sorts_before_ratchets_file_is_an_error(folder: Path) -> None:
    put(folder, "00-meshnet.conflist", {"name": "m", "plugins": [{"type": "bridge"}, {"type": "meshnet"}]})
    with pytest.raises(
        RatchetError, match=f"the runtime uses 00-meshnet.conflist, which sorts before {CONFIG}"
    ) as error:
        configure(folder)
    assert error.value.details == f"rename 00-meshnet.conflist so that it sorts after {CONFIG}"
    assert own(folder) is None


# A given network


def test_a_given_network_is_not_installed_where_the_runtime_would_not_use_it(folder: Path, tmp_path: Path) -> None:
    put(tmp_path, "given.conflist", CHAINED)
    put(folder, "00-multus.conf", TO_PODS)
    with pytest.raises(RatchetError, match="is the meta plugin multus-shim"):
        configure(folder, tmp_path / "given.conflist")
    assert own(folder) is None
    (folder / "00-multus.conf").unlink()
    assert configure(folder, tmp_path / "given.conflist")
    put(folder, "00-multus.conf", TO_RATCHET)
    assert not configure(folder, tmp_path / "given.conflist")


@pytest.mark.parametrize(
    "network",
    [ENDLESS, {"name": "n", "type": "ratchet", "delegate": {"type": "multus", "delegates": [PODS]}}],
    ids=["chain", "delegate"],
)
def test_a_given_network_must_not_run_a_meta_plugin(network: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    put(tmp_path, "given.conflist", network)
    with pytest.raises(RatchetError, match="it runs the meta plugin multus"):
        configure(folder, tmp_path / "given.conflist")
    assert own(folder) is None


# Reports


def test_the_command_fails_and_says_what_to_do(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder, "00-multus.conf", TO_PODS)
    assert main(["install", "--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(folder)]) == 1
    message, details = capsys.readouterr().err.splitlines()
    assert message == (
        f"ratchet: cannot configure ratchet in {folder}: the first network, 00-multus.conf, "
        "is the meta plugin multus-shim"
    )
    assert "install without --conf-dir" in details


def test_the_loop_logs_what_to_do(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(folder, "00-multus.conf", TO_PODS)
    socket = tmp_path / "agent.sock"
    socket.touch()
    stopping = threading.Event()
    stopping.set()
    InstallLoop(tmp_path / "bin", folder, socket).run(stopping)
    assert "is the meta plugin multus-shim (chain ratchet inside the network" in caplog.text
