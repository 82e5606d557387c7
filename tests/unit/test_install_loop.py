"""The install loop: it restores files, writes the configuration last, and uninstalls if deleted."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.install import CONFIG, LAUNCHER, uninstall
from ratchet.install.bundle import BUNDLES
from ratchet.install.compiled import find_compiled
from ratchet.install.deployment import DeploymentWatch, Seen
from ratchet.install.kubeconfig import Kubeconfig
from ratchet.install.loop import InstallLoop
from ratchet.store.api_errors import ForbiddenError, NotFoundError

NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
DAEMON_SET = "ratchet/ratchet-install"


class Api:
    """A fake API with one answer to every request."""

    def __init__(self, answer: dict[str, Any] | RatchetError) -> None:
        self.answer = answer

    def get(self, _path: str) -> dict[str, Any]:
        if isinstance(self.answer, RatchetError):
            raise self.answer
        return self.answer


DEPLOYED = {"kind": "DaemonSet", "metadata": {"name": "ratchet-install"}}
TERMINATING = {
    "kind": "DaemonSet",
    "metadata": {"name": "ratchet-install", "deletionTimestamp": "2026-01-02T03:04:05Z"},
}


@pytest.fixture
def keeper(tmp_path: Path) -> InstallLoop:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-pods.conflist").write_text(json.dumps(NETWORK))
    return InstallLoop(tmp_path / "bin", tmp_path / "net.d", tmp_path / "agent.sock")


@pytest.fixture
def without_agent(keeper: InstallLoop, tmp_path: Path) -> InstallLoop:
    """The install loop of a daemonless node, with a service account for the plugin."""
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").write_text("authority")
    (account / "token").write_text("first")
    kubeconfig = Kubeconfig(tmp_path / "net.d" / "ratchet.d" / "kubeconfig", "https://10.96.0.1:443", account)
    return replace(keeper, socket=None, kubeconfig=kubeconfig)


def create_agent_socket(keeper: InstallLoop) -> None:
    """Create the socket of an agent on the node."""
    assert keeper.socket is not None
    keeper.socket.touch()


def end(keeper: InstallLoop, answer: dict[str, Any] | RatchetError) -> None:
    """End the installer's pod while the API gives this answer."""
    deployment = DeploymentWatch(Api(answer), DAEMON_SET)  # type: ignore[arg-type]
    deployment.seen = Seen(existed=True)
    keeper.uninstall_if_deleted(deployment, lambda _: None)


def plugin_types(keeper: InstallLoop) -> list[str]:
    assert keeper.conf_dir is not None
    return [one["type"] for one in json.loads((keeper.conf_dir / CONFIG).read_text())["plugins"]]


def files(keeper: InstallLoop) -> set[str]:
    assert keeper.conf_dir is not None
    return {one.name for folder in (keeper.bin_dir, keeper.conf_dir) for one in folder.iterdir()}


def test_the_network_is_configured_once_the_agents_socket_exists(keeper: InstallLoop) -> None:
    keeper.reconcile()
    assert files(keeper) == {LAUNCHER, "10-pods.conflist"}
    create_agent_socket(keeper)
    keeper.reconcile()
    assert plugin_types(keeper) == ["bridge", "ratchet"]


def test_ratchet_is_chained_again_after_the_network_changes(keeper: InstallLoop) -> None:
    create_agent_socket(keeper)
    keeper.reconcile()
    assert keeper.conf_dir is not None
    (keeper.conf_dir / "10-pods.conflist").write_text(json.dumps({**NETWORK, "plugins": [{"type": "ptp"}]}))
    keeper.reconcile()
    assert plugin_types(keeper) == ["ptp", "ratchet"]


def test_a_given_network_is_written_instead_of_a_chained_one(keeper: InstallLoop, tmp_path: Path) -> None:
    create_agent_socket(keeper)
    given = tmp_path / "given.conf"
    given.write_text(json.dumps({"name": "ratchet-demo", "type": "ratchet", "delegate": {"type": "flannel"}}))
    keeper = replace(keeper, network=given)
    keeper.reconcile()
    assert plugin_types(keeper) == ["ratchet"]
    given.write_text(json.dumps({"name": "x", "type": "ratchet", "delegate": {"type": "ptp"}}))
    keeper.reconcile()
    assert keeper.conf_dir is not None
    assert json.loads((keeper.conf_dir / CONFIG).read_text()) == {
        "name": "x",
        "plugins": [{"type": "ratchet", "delegate": {"type": "ptp"}}],
    }
    given.write_text(json.dumps({"name": "x", "type": "ptp"}))
    with pytest.raises(RatchetError, match="it has no plugin of type ratchet"):
        keeper.reconcile()


@pytest.mark.parametrize("lost", [LAUNCHER, CONFIG])
def test_a_removed_file_is_restored(keeper: InstallLoop, lost: str) -> None:
    create_agent_socket(keeper)
    keeper.reconcile()
    assert keeper.conf_dir is not None
    before = files(keeper)
    next(path for path in (keeper.bin_dir / lost, keeper.conf_dir / lost) if path.exists()).unlink()
    keeper.reconcile()
    assert files(keeper) == before


def test_an_unchanged_configuration_is_not_written_again(keeper: InstallLoop) -> None:
    create_agent_socket(keeper)
    keeper.reconcile()
    assert keeper.conf_dir is not None
    before = (keeper.conf_dir / CONFIG).stat().st_ino
    keeper.reconcile()
    assert (keeper.conf_dir / CONFIG).stat().st_ino == before


class AfterPasses(threading.Event):
    """A stop event that runs one step after each pass of the loop, and is set after the last one."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self._steps = list(steps)

    def wait(self, _: float | None = None) -> bool:
        if self._steps:
            self._steps.pop(0)()
            return False
        return True


def test_the_loop_logs_once_that_the_node_has_no_network_and_retries(
    keeper: InstallLoop, caplog: pytest.LogCaptureFixture
) -> None:
    create_agent_socket(keeper)
    assert keeper.conf_dir is not None
    network = keeper.conf_dir / "10-pods.conflist"
    network.unlink()

    def check_that_it_has_failed() -> None:
        assert caplog.text.count("there is no network to chain after") == 1
        assert files(keeper) == {LAUNCHER}

    keeper.run(
        AfterPasses(
            check_that_it_has_failed,
            check_that_it_has_failed,
            lambda: network.write_text(json.dumps(NETWORK)),
            network.unlink,
        )
    )
    assert plugin_types(keeper) == ["bridge", "ratchet"]
    assert caplog.text.count("there is no network to chain after") == 2, "it is logged again after a success"


@pytest.mark.parametrize(
    ("answer", "level", "reason"),
    [
        (DEPLOYED, "INFO", "it is deployed"),
        (ForbiddenError("cannot GET it: no"), "WARNING", "cannot tell whether it is deleted: cannot GET it: no"),
        (ApiUnavailableError("away"), "WARNING", "cannot tell whether it is deleted: away"),
    ],
    ids=["deployed", "forbidden", "no API"],
)
def test_the_plugin_is_kept_unless_its_daemon_set_is_known_to_be_deleted(
    keeper: InstallLoop,
    answer: dict[str, Any] | RatchetError,
    level: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    create_agent_socket(keeper)
    keeper.reconcile()
    with caplog.at_level("INFO"):
        end(keeper, answer)
    assert files(keeper) == {"10-pods.conflist", LAUNCHER, CONFIG}
    (record,) = [one for one in caplog.records if one.message.startswith("plugin kept")]
    assert (record.levelname, record.message) == (level, f"plugin kept daemonset={DAEMON_SET} reason={reason}")


@pytest.mark.parametrize("answer", [TERMINATING, NotFoundError("no such object")], ids=["being deleted", "deleted"])
def test_the_plugin_is_uninstalled_if_its_daemon_set_is_deleted(
    keeper: InstallLoop, answer: dict[str, Any] | RatchetError
) -> None:
    create_agent_socket(keeper)
    keeper.reconcile()
    end(keeper, answer)
    assert files(keeper) == {"10-pods.conflist"}


def test_uninstall_removes_the_configuration_first_and_is_idempotent(keeper: InstallLoop) -> None:
    create_agent_socket(keeper)
    keeper.reconcile()
    removed = uninstall(keeper.bin_dir, keeper.conf_dir)
    assert [path.name for path in removed] == [CONFIG, LAUNCHER]
    assert uninstall(keeper.bin_dir, keeper.conf_dir) == []


# Without an agent


def test_a_daemonless_network_is_configured_after_the_bundle_and_the_kubeconfig(
    without_agent: InstallLoop, tmp_path: Path
) -> None:
    (tmp_path / "account" / "token").rename(tmp_path / "token")
    with pytest.raises(RatchetError, match=r"cannot write .*/kubeconfig: cannot read .*/account/token: No such file"):
        without_agent.reconcile()
    assert files(without_agent) == {LAUNCHER, BUNDLES, "10-pods.conflist"}
    (tmp_path / "token").rename(tmp_path / "account" / "token")
    without_agent.reconcile()
    assert plugin_types(without_agent) == ["bridge", "ratchet"]
    assert (without_agent.bin_dir / LAUNCHER).resolve().is_relative_to(without_agent.bin_dir.resolve() / BUNDLES)


def test_the_kubeconfig_is_private_and_follows_the_token(without_agent: InstallLoop, tmp_path: Path) -> None:
    assert without_agent.kubeconfig is not None
    path = without_agent.kubeconfig.path
    without_agent.reconcile()
    assert path.stat().st_mode & 0o777 == 0o600
    config = json.loads(path.read_text())
    assert config["clusters"][0]["cluster"]["server"] == "https://10.96.0.1:443"
    assert config["users"][0]["user"]["token"] == "first"
    before = path.stat().st_ino
    without_agent.reconcile()
    assert path.stat().st_ino == before
    (tmp_path / "account" / "token").write_text("second\n")
    without_agent.reconcile()
    assert json.loads(path.read_text())["users"][0]["user"]["token"] == "second"


def test_a_removed_bundle_is_restored(without_agent: InstallLoop) -> None:
    without_agent.reconcile()
    shutil.rmtree(without_agent.bin_dir / BUNDLES)
    without_agent.reconcile()
    assert (without_agent.bin_dir / LAUNCHER).is_file()


def test_uninstall_removes_the_bundle_and_the_kubeconfig(without_agent: InstallLoop) -> None:
    without_agent.reconcile()
    assert without_agent.kubeconfig is not None
    end(without_agent, TERMINATING)
    assert files(without_agent) == {"10-pods.conflist", "ratchet.d"}
    assert not without_agent.kubeconfig.path.exists()
