"""The bundled Python: self-contained, relocatable, immutable, and installed completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ratchet.cli.main import main
from ratchet.errors import RatchetError
from ratchet.install import FALLBACK, LAUNCHER, install, uninstall
from ratchet.install.bundle import BUNDLES
from ratchet.install.compiled import find_compiled
from tests.support.namespaces import may_make_namespaces

NETWORK = {"cniVersion": "1.1.0", "name": "net", "type": "ratchet"}


@pytest.fixture(autouse=True)
def possible() -> None:
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "cni" / "bin"


def bundles(bin_dir: Path) -> set[str]:
    return {folder.name for folder in (bin_dir / BUNDLES).iterdir()}


def current_bundle(bin_dir: Path) -> str:
    return (bin_dir / LAUNCHER).resolve().parent.name


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.runs_bundle
def test_the_plugin_runs_in_a_root_with_nothing_but_its_folder(bin_dir: Path, tmp_path: Path) -> None:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, for another root")
    config = {"cluster": {"server": "https://127.0.0.1:1"}, "name": "c"}
    user, context = {"name": "u", "user": {"token": "t"}}, {"name": "x", "context": {"cluster": "c", "user": "u"}}
    kubeconfig = tmp_path / "kubeconfig"
    entries = {"clusters": [config], "users": [user], "contexts": [context], "current-context": "x"}
    kubeconfig.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **entries}))
    install(bin_dir, relocatable=True)
    before = contents(bin_dir)
    (tmp_path / "proc").mkdir()
    inside = 'mount -t proc none "$0/proc" && exec chroot "$0" /opt/cni/bin/ratchet'
    for command, expected in (("VERSION", '"supportedVersions"'), ("STATUS", "cannot reach the Kubernetes API")):
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", inside, str(tmp_path)],
            input=json.dumps({**NETWORK, "kubeconfig": "/kubeconfig"}).encode(),
            env={**os.environ, "CNI_COMMAND": command, "LD_LIBRARY_PATH": "/nowhere", "PYTHONHOME": "/nowhere"},
            capture_output=True,
            check=False,
        )
        assert expected in done.stdout.decode(), done.stderr.decode()
    assert contents(bin_dir) == before


def test_a_bundle_has_no_development_tools(bin_dir: Path) -> None:
    install(bin_dir, relocatable=True)
    packages = (bin_dir / LAUNCHER).resolve().parent / "packages" / "ratchet"
    assert {"node", "store", "install", "cli"} <= {path.name for path in packages.iterdir()}
    assert not (packages / "dev").exists()


@pytest.mark.thorough
@pytest.mark.runs_bundle
def test_a_bundle_runs_after_it_was_moved(bin_dir: Path, tmp_path: Path) -> None:
    install(bin_dir, relocatable=True)
    moved = tmp_path / "else where"
    bin_dir.rename(moved)
    done = subprocess.run(
        [moved / LAUNCHER], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


def test_an_equal_bundle_is_not_installed_again(bin_dir: Path) -> None:
    install(bin_dir, relocatable=True)
    before = (bin_dir / LAUNCHER).stat()
    install(bin_dir, relocatable=True)
    assert (bin_dir / LAUNCHER).stat().st_ino == before.st_ino
    assert len(bundles(bin_dir)) == 1


def test_the_previous_bundle_stays_for_running_calls(bin_dir: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    for number in range(3):
        install(bin_dir, state_dir=tmp_path / str(number), relocatable=True)
        seen.append(current_bundle(bin_dir))
        assert bundles(bin_dir) == set(seen[-2:])
    assert len(set(seen)) == 3


@pytest.mark.thorough
@pytest.mark.runs_bundle
def test_the_kubeconfig_option_is_recorded_in_the_bundle(bin_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("no kubeconfig")
    install(bin_dir, kubeconfig=tmp_path / "kubeconfig", relocatable=True)
    done = subprocess.run(
        [bin_dir / LAUNCHER],
        input=json.dumps(NETWORK).encode(),
        env={"CNI_COMMAND": "STATUS"},
        capture_output=True,
        check=False,
    )
    assert f"kubeconfig {tmp_path / 'kubeconfig'}" in json.loads(done.stdout)["msg"]


@pytest.mark.runs_bundle
def test_the_shim_falls_back_to_the_bundle(bin_dir: Path) -> None:
    assert install(bin_dir, agent=True, relocatable=True) == [bin_dir / FALLBACK, bin_dir / LAUNCHER]
    assert (bin_dir / FALLBACK).resolve().is_relative_to((bin_dir / BUNDLES).resolve())
    done = subprocess.run(
        [bin_dir / LAUNCHER],
        input=json.dumps({**NETWORK, "kubeconfig": "/none"}).encode(),
        env={"CNI_COMMAND": "STATUS", "RATCHET_AGENT_SOCKET": str(bin_dir / "none"), "RATCHET_PANEL": ""},
        capture_output=True,
        check=False,
    )
    assert "kubeconfig /none" in json.loads(done.stdout)["msg"]


@pytest.mark.parametrize("agent", [False, True])
def test_an_installation_that_needs_no_bundle_removes_it(bin_dir: Path, agent: bool) -> None:
    install(bin_dir, relocatable=True)
    install(bin_dir, agent=agent, fallback=not agent)
    assert [path.name for path in bin_dir.iterdir()] == [LAUNCHER]
    assert not (bin_dir / LAUNCHER).is_symlink()


def test_uninstall_removes_the_bundle(bin_dir: Path) -> None:
    install(bin_dir, relocatable=True)
    assert uninstall(bin_dir) == [bin_dir / LAUNCHER, bin_dir / BUNDLES]
    assert list(bin_dir.iterdir()) == []
    assert uninstall(bin_dir) == []


def test_a_failed_bundle_leaves_the_installed_plugin_unchanged(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(bin_dir, relocatable=True)
    before = contents(bin_dir)
    copied: list[Path] = []

    def full(source: Path, target: Path) -> None:
        if len(copied) == 20:
            raise OSError(28, "No space left on device")
        copied.append(target)
        shutil.copy(source, target)

    monkeypatch.setattr("ratchet.install.bundle.shutil.copy2", full)
    with pytest.raises(RatchetError, match=f"cannot write {bin_dir / BUNDLES}/.*: No space left on device"):
        install(bin_dir, state_dir=tmp_path, relocatable=True)
    assert contents(bin_dir) == before


def test_a_missing_launcher_is_reported(bin_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.install.bundle.find_compiled", lambda _: None)
    with pytest.raises(RatchetError, match="cannot bundle Python: there is no launcher for this machine") as expected:
        install(bin_dir, relocatable=True)
    assert "make install" in expected.value.details
    assert not bin_dir.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--keep", "a/b"], "--keep requires either --agent --no-fallback or --relocatable"),
        (["--keep", "a/b", "--agent"], "--keep requires either --agent --no-fallback or --relocatable"),
        (["--write-kubeconfig", "/x", "--relocatable"], "--write-kubeconfig requires --keep"),
    ],
)
def test_options_without_the_options_that_they_require_are_rejected(
    bin_dir: Path, options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--bin-dir", str(bin_dir), *options]) == 1
    assert capsys.readouterr().err == f"ratchet: cannot install: {expected}\n"
    assert not bin_dir.exists()
