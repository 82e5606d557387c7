"""Keeping a node's folders: everything in its place, the configuration last, and put back when nobody wants it."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.install import CONFIG, LAUNCHER, uninstall
from ratchet.install.bundle import BUNDLES
from ratchet.install.compiled import find_compiled
from ratchet.install.kubeconfig import Kubeconfig
from ratchet.install.loop import InstallLoop, is_deleted
from ratchet.store.api_errors import ForbiddenError, NotFoundError, UnauthorizedError

NETWORK = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
DAEMON_SET = "ratchet/ratchet-install"


class Api:
    """An API that has one answer."""

    def __init__(self, answer: dict[str, Any] | RatchetError) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def get(self, path: str) -> dict[str, Any]:
        self.asked.append(path)
        if isinstance(self.answer, RatchetError):
            raise self.answer
        return self.answer


DEPLOYED = {"metadata": {"name": "ratchet-install"}}
GOING = {"metadata": {"name": "ratchet-install", "deletionTimestamp": "2026-01-02T03:04:05Z"}}


@pytest.fixture
def keeper(tmp_path: Path) -> InstallLoop:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-pods.conflist").write_text(json.dumps(NETWORK))
    return InstallLoop(tmp_path / "bin", tmp_path / "net.d", tmp_path / "agent.sock")


@pytest.fixture
def without_agent(keeper: InstallLoop, tmp_path: Path) -> InstallLoop:
    """The keeper of a node whose plugin does all itself, with an account of the cluster."""
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    account = tmp_path / "account"
    account.mkdir()
    (account / "ca.crt").write_text("authority")
    (account / "token").write_text("first")
    kubeconfig = Kubeconfig(tmp_path / "net.d" / "ratchet.d" / "kubeconfig", "https://10.96.0.1:443", account)
    return replace(keeper, socket=None, kubeconfig=kubeconfig)


def serve(keeper: InstallLoop) -> None:
    """Have an agent on the node."""
    assert keeper.socket is not None
    keeper.socket.touch()


def types(keeper: InstallLoop) -> list[str]:
    assert keeper.conf_dir is not None
    return [one["type"] for one in json.loads((keeper.conf_dir / CONFIG).read_text())["plugins"]]


def files(keeper: InstallLoop) -> set[str]:
    assert keeper.conf_dir is not None
    return {one.name for folder in (keeper.bin_dir, keeper.conf_dir) for one in folder.iterdir()}


def test_a_network_calls_the_agent_only_once_there_is_one(keeper: InstallLoop) -> None:
    keeper.reconcile()
    assert files(keeper) == {LAUNCHER, "10-pods.conflist"}
    serve(keeper)
    keeper.reconcile()
    assert types(keeper) == ["bridge", "ratchet"]


def test_it_stands_behind_a_network_that_is_configured_anew(keeper: InstallLoop) -> None:
    serve(keeper)
    keeper.reconcile()
    assert keeper.conf_dir is not None
    (keeper.conf_dir / "10-pods.conflist").write_text(json.dumps({**NETWORK, "plugins": [{"type": "ptp"}]}))
    keeper.reconcile()
    assert types(keeper) == ["ptp", "ratchet"]


def test_a_network_that_is_given_is_put_there_whatever_the_node_has(keeper: InstallLoop, tmp_path: Path) -> None:
    serve(keeper)
    given = tmp_path / "given.conf"
    given.write_text(json.dumps({"name": "ratchet-demo", "type": "ratchet", "delegate": {"type": "flannel"}}))
    keeper = replace(keeper, network=given)
    keeper.reconcile()
    assert types(keeper) == ["ratchet"]
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
def test_what_is_taken_away_comes_again(keeper: InstallLoop, lost: str) -> None:
    serve(keeper)
    keeper.reconcile()
    assert keeper.conf_dir is not None
    before = files(keeper)
    next(path for path in (keeper.bin_dir / lost, keeper.conf_dir / lost) if path.exists()).unlink()
    keeper.reconcile()
    assert files(keeper) == before


def test_nothing_is_written_where_nothing_has_changed(keeper: InstallLoop) -> None:
    serve(keeper)
    keeper.reconcile()
    assert keeper.conf_dir is not None
    before = (keeper.conf_dir / CONFIG).stat().st_ino
    keeper.reconcile()
    assert (keeper.conf_dir / CONFIG).stat().st_ino == before


def test_a_node_without_a_network_is_waited_for(keeper: InstallLoop, caplog: pytest.LogCaptureFixture) -> None:
    serve(keeper)
    assert keeper.conf_dir is not None
    (keeper.conf_dir / "10-pods.conflist").unlink()
    stopping = threading.Event()
    stopping.set()
    keeper.run(stopping)
    assert "there is no network to chain after" in caplog.text


@pytest.mark.parametrize(
    ("answer", "gone"),
    [
        (DEPLOYED, False),
        (GOING, True),
        (NotFoundError("no such object"), True),
        (ForbiddenError("no"), True),
        (UnauthorizedError("who"), True),
        (ApiUnavailableError("away"), False),
    ],
    ids=["deployed", "being deleted", "deleted", "no permission any more", "no account any more", "no API"],
)
def test_a_node_is_put_back_only_when_the_plugin_is_deployed_no_more(
    keeper: InstallLoop, answer: dict[str, Any] | RatchetError, gone: bool
) -> None:
    serve(keeper)
    keeper.reconcile()
    api = Api(answer)
    assert is_deleted(api, DAEMON_SET) is gone  # type: ignore[arg-type]
    assert api.asked == ["/apis/apps/v1/namespaces/ratchet/daemonsets/ratchet-install"]
    keeper.uninstall_if_deleted(api, DAEMON_SET)  # type: ignore[arg-type]
    assert files(keeper) == {"10-pods.conflist"} | (set() if gone else {LAUNCHER, CONFIG})


def test_uninstalling_takes_the_configuration_first_and_may_be_repeated(keeper: InstallLoop) -> None:
    serve(keeper)
    keeper.reconcile()
    removed = uninstall(keeper.bin_dir, keeper.conf_dir)
    assert [path.name for path in removed] == [CONFIG, LAUNCHER]
    assert uninstall(keeper.bin_dir, keeper.conf_dir) == []


# Without an agent


def test_a_plugin_without_an_agent_brings_its_python_and_has_an_account_before_it_is_called(
    without_agent: InstallLoop, tmp_path: Path
) -> None:
    (tmp_path / "account" / "token").rename(tmp_path / "token")
    with pytest.raises(RatchetError, match=r"cannot write .*/kubeconfig: cannot read .*/account/token: No such file"):
        without_agent.reconcile()
    assert files(without_agent) == {LAUNCHER, BUNDLES, "10-pods.conflist"}
    (tmp_path / "token").rename(tmp_path / "account" / "token")
    without_agent.reconcile()
    assert types(without_agent) == ["bridge", "ratchet"]
    assert (without_agent.bin_dir / LAUNCHER).resolve().is_relative_to(without_agent.bin_dir.resolve() / BUNDLES)


def test_the_account_is_roots_alone_and_its_token_followed(without_agent: InstallLoop, tmp_path: Path) -> None:
    assert without_agent.kubeconfig is not None
    path = without_agent.kubeconfig.path
    without_agent.reconcile()
    assert path.stat().st_mode & 0o777 == 0o600
    said = json.loads(path.read_text())
    assert said["clusters"][0]["cluster"]["server"] == "https://10.96.0.1:443"
    assert said["users"][0]["user"]["token"] == "first"
    before = path.stat().st_ino
    without_agent.reconcile()
    assert path.stat().st_ino == before
    (tmp_path / "account" / "token").write_text("second\n")
    without_agent.reconcile()
    assert json.loads(path.read_text())["users"][0]["user"]["token"] == "second"


def test_a_bundle_that_is_taken_away_comes_again(without_agent: InstallLoop) -> None:
    without_agent.reconcile()
    shutil.rmtree(without_agent.bin_dir / BUNDLES)
    without_agent.reconcile()
    assert (without_agent.bin_dir / LAUNCHER).is_file()


def test_nothing_of_a_plugin_without_an_agent_is_left(without_agent: InstallLoop) -> None:
    without_agent.reconcile()
    assert without_agent.kubeconfig is not None
    without_agent.uninstall_if_deleted(Api(GOING), DAEMON_SET)  # type: ignore[arg-type]
    assert files(without_agent) == {"10-pods.conflist", "ratchet.d"}
    assert not without_agent.kubeconfig.path.exists()
