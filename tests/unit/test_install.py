"""Install: executables that work wherever Python is, atomic writes, and the chained configuration."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli.main import main
from ratchet.errors import RatchetError
from ratchet.install import CONFIG, FALLBACK, LAUNCHER, compiled, install
from ratchet.install.plugin import find_shim


def call(launcher: Path, command: str = "VERSION", **config: Any) -> tuple[int, dict[str, Any]]:
    """Run the plugin as a runtime does, and return its exit status and its JSON output."""
    done = subprocess.run(
        [launcher], input=json.dumps(config).encode(), env={"CNI_COMMAND": command}, capture_output=True, check=False
    )
    return done.returncode, json.loads(done.stdout)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "cni" / "bin"


@pytest.fixture
def conf_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "net.d"
    folder.mkdir()
    return folder


# The executable


def test_the_launcher_is_a_working_plugin(bin_dir: Path) -> None:
    assert install(bin_dir) == [bin_dir / LAUNCHER]
    assert modes(bin_dir) == {LAUNCHER: 0o755}
    status, answer = call(bin_dir / LAUNCHER, cniVersion="1.0.0")
    assert status == 0
    assert answer["cniVersion"] == "1.0.0"
    assert {"0.3.1", "0.4.0", "1.0.0", "1.1.0"} <= set(answer["supportedVersions"])


def test_the_launcher_imports_nothing_from_the_callers_environment(bin_dir: Path, tmp_path: Path) -> None:
    install(bin_dir)
    (tmp_path / "ratchet.py").write_text("raise SystemExit(3)")
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    done = subprocess.run(
        [bin_dir / LAUNCHER],
        env={"CNI_COMMAND": "VERSION", "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "json.py")},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_reinstall_replaces_the_launcher_and_keeps_the_running_one(bin_dir: Path) -> None:
    install(bin_dir)
    with (bin_dir / LAUNCHER).open() as running:
        before = running.read()
        install(bin_dir, state_dir=bin_dir)
        running.seek(0)
        assert running.read() == before
        assert (bin_dir / LAUNCHER).stat().st_ino != os.fstat(running.fileno()).st_ino
    assert (bin_dir / LAUNCHER).read_text() != before
    assert modes(bin_dir) == {LAUNCHER: 0o755}


def test_a_failed_install_leaves_no_partial_files(bin_dir: Path) -> None:
    (bin_dir / LAUNCHER).mkdir(parents=True)
    with pytest.raises(RatchetError, match=f"cannot write {bin_dir / LAUNCHER}: "):
        install(bin_dir)
    assert [path.name for path in bin_dir.iterdir()] == [LAUNCHER]


def test_install_fails_if_the_bin_dir_cannot_be_created(bin_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "opt").write_text("")
    with pytest.raises(RatchetError, match="cannot write "):
        install(bin_dir)


def python_at(folder: Path) -> Path:
    """A virtual environment in `folder` with the packages of this one."""
    interpreter = Path(os.path.realpath(sys.executable))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(interpreter)
    (folder / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\n")
    library = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    library.mkdir(parents=True)
    (library / "site-packages").symlink_to(sysconfig.get_paths()["purelib"])
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    ("folder", "first_line"),
    [
        ("plain", "#!{python} -I"),
        ("with space", "#!/bin/sh"),
        ('it\'s "here" $HOME', "#!/bin/sh"),
        ("x" * 200 + "/" + "y" * 200, "#!/bin/sh"),
    ],
    ids=["plain", "space", "quotes", "long"],
)
def test_the_launcher_works_wherever_python_is(folder: str, first_line: str, bin_dir: Path, tmp_path: Path) -> None:
    python = python_at(tmp_path / folder)
    command = [str(python), "-I", "-m", "ratchet.cli.main", "install", "--bin-dir", str(bin_dir)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed == f"installed {bin_dir / LAUNCHER}\n"
    lines = (bin_dir / LAUNCHER).read_text().splitlines()
    assert lines[0] == first_line.format(python=python)
    status, answer = call(bin_dir / LAUNCHER, cniVersion="0.4.0")
    assert (status, answer["cniVersion"]) == (0, "0.4.0")


# Recorded paths


def test_a_kubeconfig_in_the_configuration_overrides_the_recorded_one(bin_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "here"\\n'
    folder.mkdir()
    recorded, own = folder / "recorded", folder / "own"
    for path in (recorded, own):
        path.write_text("no kubeconfig")
    install(bin_dir, kubeconfig=recorded, state_dir=tmp_path / "state")
    network = {"cniVersion": "1.1.0", "name": "net", "type": "ratchet"}
    for config, used in ((network, recorded), ({**network, "kubeconfig": str(own)}, own)):
        status, answer = call(bin_dir / LAUNCHER, "STATUS", **config)
        assert status == 1
        assert f"kubeconfig {used}" in answer["msg"]


def test_relative_paths_are_recorded_as_absolute_paths(bin_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("")
    relative = os.path.relpath(tmp_path)
    install(bin_dir, kubeconfig=Path(relative, "kubeconfig"), state_dir=Path(relative, "state"))
    recorded = f"run(kubeconfig={str(tmp_path / 'kubeconfig')!r}, state_dir={str(tmp_path / 'state')!r})"
    assert recorded in (bin_dir / LAUNCHER).read_text()


def test_install_writes_nothing_if_the_kubeconfig_is_missing(bin_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RatchetError, match=f"cannot use the kubeconfig {tmp_path / 'missing'}: no such file"):
        install(bin_dir, kubeconfig=tmp_path / "missing")
    assert not bin_dir.exists()


# Network configuration

BRIDGE = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}}
CHAIN = {"cniVersion": "1.0.0", "name": "k8s", "disableCheck": True, "plugins": [BRIDGE, {"type": "portmap"}]}


def installed_config(bin_dir: Path, conf_dir: Path, **files: Any) -> dict[str, Any]:
    """Install beside `files` and return the written configuration. A `_` in a file name means a dot."""
    for name, content in files.items():
        (conf_dir / name.replace("_", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    before = {path.name: path.read_bytes() for path in conf_dir.iterdir()}
    assert install(bin_dir, conf_dir) == [bin_dir / LAUNCHER, conf_dir / CONFIG]
    assert modes(conf_dir)[CONFIG] == 0o600
    assert {path.name for path in conf_dir.iterdir()} == {*before, CONFIG}
    assert all((conf_dir / name).read_bytes() == content for name, content in before.items() if name != CONFIG)
    config: dict[str, Any] = json.loads((conf_dir / CONFIG).read_text())
    return config


def test_ratchet_is_chained_after_a_conf(bin_dir: Path, conf_dir: Path) -> None:
    assert installed_config(
        bin_dir, conf_dir, **{"10-bridge_conf": {"cniVersion": "0.4.0", "name": "b", **BRIDGE}}
    ) == {
        "cniVersion": "0.4.0",
        "name": "b",
        "plugins": [BRIDGE, {"type": "ratchet"}],
    }


def test_ratchet_is_chained_after_a_conflist(bin_dir: Path, conf_dir: Path) -> None:
    chained = {**CHAIN, "plugins": [BRIDGE, {"type": "portmap"}, {"type": "ratchet"}]}
    assert installed_config(bin_dir, conf_dir, **{"10-k8s_conflist": CHAIN}) == chained


def test_ratchet_is_chained_after_the_first_network_of_the_folder(bin_dir: Path, conf_dir: Path) -> None:
    files = {
        "00-notes_txt": "not a network",
        "01-other_json": [1],
        "02-empty_conf": {},
        "03-odd_conflist": {"name": "odd", "plugins": ["x"]},
        "20-k8s_conflist": CHAIN,
        "30-b_conf": {"name": "b", **BRIDGE},
    }
    assert installed_config(bin_dir, conf_dir, **files)["name"] == "k8s"


def test_ratchet_is_not_chained_after_loopback_or_itself(bin_dir: Path, conf_dir: Path) -> None:
    delegating = {"name": "ratchet-demo", "type": "ratchet", "delegate": {"type": "flannel"}}
    loopback = {"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}
    files = {"05-loopback_conf": loopback, "10-ratchet_conf": delegating, "20-k8s_conflist": CHAIN}
    assert installed_config(bin_dir, conf_dir, **files)["name"] == "k8s"
    (conf_dir / CONFIG).unlink()
    (conf_dir / "20-k8s.conflist").unlink()
    with pytest.raises(RatchetError, match="there is no network to chain after"):
        install(bin_dir, conf_dir)
    assert not (conf_dir / CONFIG).exists()


def test_a_reinstall_chains_ratchet_once(bin_dir: Path, conf_dir: Path) -> None:
    first = installed_config(bin_dir, conf_dir, **{"10-k8s_conflist": CHAIN})
    assert installed_config(bin_dir, conf_dir) == first
    by_hand = {**CHAIN, "plugins": [BRIDGE, {"type": "ratchet", "wait": 5}]}
    assert installed_config(bin_dir, conf_dir, **{"10-k8s_conflist": by_hand})["plugins"] == [
        BRIDGE,
        {"type": "ratchet"},
    ]


@pytest.mark.parametrize("exists", [True, False])
def test_install_fails_if_there_is_no_network_to_chain_after(exists: bool, bin_dir: Path, conf_dir: Path) -> None:
    if not exists:
        conf_dir.rmdir()
    with pytest.raises(RatchetError, match=f"{conf_dir}: there is no network to chain after") as reported:
        install(bin_dir, conf_dir)
    assert "install the cluster's network first" in reported.value.details
    assert not (conf_dir / CONFIG).exists()


def test_an_unreadable_configuration_is_an_error(bin_dir: Path, conf_dir: Path) -> None:
    (conf_dir / "10-x.conf").write_text("{")
    with pytest.raises(RatchetError, match=f"cannot read {conf_dir / '10-x.conf'}: "):
        install(bin_dir, conf_dir)
    assert [path.name for path in conf_dir.iterdir()] == ["10-x.conf"]


# With an agent


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The content of a fake shim for this machine. tests/shim tests the real one."""
    path = tmp_path / "shim"
    path.write_bytes(b"\x7fELF shim")
    monkeypatch.setattr("ratchet.install.plugin.find_shim", lambda: path)
    return path.read_bytes()


def test_with_an_agent_the_shim_is_installed_beside_the_fallback(bin_dir: Path, shim: bytes) -> None:
    assert install(bin_dir, agent=True) == [bin_dir / FALLBACK, bin_dir / LAUNCHER]
    assert modes(bin_dir) == {FALLBACK: 0o755, LAUNCHER: 0o755}
    assert (bin_dir / LAUNCHER).read_bytes() == shim
    status, answer = call(bin_dir / FALLBACK, cniVersion="0.4.0")
    assert (status, answer["cniVersion"]) == (0, "0.4.0")


def test_the_fallback_equals_the_launcher_of_an_install_without_an_agent(
    bin_dir: Path, tmp_path: Path, shim: bytes
) -> None:
    (tmp_path / "kubeconfig").write_text("")
    install(bin_dir, kubeconfig=tmp_path / "kubeconfig", state_dir=tmp_path / "state")
    launcher = (bin_dir / LAUNCHER).read_bytes()
    install(bin_dir, kubeconfig=tmp_path / "kubeconfig", state_dir=tmp_path / "state", agent=True)
    assert (bin_dir / FALLBACK).read_bytes() == launcher


def test_install_without_a_fallback_removes_an_earlier_one(bin_dir: Path, shim: bytes) -> None:
    install(bin_dir, agent=True)
    assert install(bin_dir, agent=True, fallback=False) == [bin_dir / LAUNCHER]
    assert modes(bin_dir) == {LAUNCHER: 0o755}


def test_the_configuration_is_written_after_the_shim(bin_dir: Path, conf_dir: Path, shim: bytes) -> None:
    (conf_dir / "10-k8s.conflist").write_text(json.dumps(CHAIN))
    assert install(bin_dir, conf_dir, agent=True) == [bin_dir / FALLBACK, bin_dir / LAUNCHER, conf_dir / CONFIG]


def test_a_shim_that_cannot_be_replaced_is_an_error_and_the_fallback_stays(bin_dir: Path, shim: bytes) -> None:
    (bin_dir / LAUNCHER).mkdir(parents=True)
    (bin_dir / FALLBACK).write_text("earlier")
    with pytest.raises(RatchetError, match=f"cannot write {bin_dir / LAUNCHER}: "):
        install(bin_dir, agent=True, fallback=False)
    assert (bin_dir / FALLBACK).read_text() == "earlier"
    assert set(modes(bin_dir)) == {LAUNCHER, FALLBACK}, "no partly written file is left"


def test_a_fallback_that_cannot_be_replaced_is_an_error_and_the_shim_stays(bin_dir: Path, shim: bytes) -> None:
    (bin_dir / FALLBACK).mkdir(parents=True)
    (bin_dir / LAUNCHER).write_text("earlier")
    with pytest.raises(RatchetError, match=f"cannot write {bin_dir / FALLBACK}: "):
        install(bin_dir, agent=True)
    assert (bin_dir / LAUNCHER).read_text() == "earlier"
    with pytest.raises(RatchetError, match=f"cannot remove {bin_dir / FALLBACK}: "):
        install(bin_dir, agent=True, fallback=False)
    assert (bin_dir / LAUNCHER).read_bytes() == shim, "the shim comes first"
    assert set(modes(bin_dir)) == {LAUNCHER, FALLBACK}, "no partly written file is left"


def test_a_python_program_replaces_a_missing_shim_with_a_warning(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ratchet.install.plugin.find_shim", lambda: None)
    assert main(["install", "--bin-dir", str(bin_dir), "--agent"]) == 0
    assert modes(bin_dir) == {FALLBACK: 0o755, LAUNCHER: 0o755}
    reported = capsys.readouterr().err
    assert reported.startswith(
        f"ratchet: there is no shim for this machine ({os.uname().machine}): a Python program replaces it"
    )
    assert "make install" in reported
    done = subprocess.run(
        [bin_dir / LAUNCHER],
        env={"CNI_COMMAND": "STATUS", "RATCHET_AGENT_SOCKET": str(bin_dir / "none"), "RATCHET_PANEL": ""},
        input=json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "ratchet", "kubeconfig": "/none"}).encode(),
        capture_output=True,
        check=False,
    )
    assert "kubeconfig /none" in json.loads(done.stdout)["msg"]  # the answer of the fallback, the daemonless plugin


def test_install_writes_nothing_if_the_shim_cannot_be_read(
    bin_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.install.plugin.find_shim", lambda: tmp_path / "gone")
    with pytest.raises(RatchetError, match=f"cannot install the shim: {tmp_path / 'gone'}: No such file"):
        install(bin_dir, agent=True)
    assert not bin_dir.exists()


def test_the_path_of_the_shim_has_the_machine_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "ratchet" / "install" / "compiled.py"))
    shims = tmp_path / "ratchet" / "shim"
    for machine in ("another", os.uname().machine):
        assert find_shim() is None
        (shims / machine).mkdir(parents=True)
        (shims / machine / "ratchet").touch()
    assert find_shim() == shims / os.uname().machine / "ratchet"


def test_the_command_installs_the_shim_and_requires_agent_for_no_fallback(
    bin_dir: Path, shim: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--bin-dir", str(bin_dir), "--agent"]) == 0
    assert capsys.readouterr().out == f"installed {bin_dir / FALLBACK}\ninstalled {bin_dir / LAUNCHER}\n"
    assert main(["install", "--bin-dir", str(bin_dir), "--agent", "--no-fallback"]) == 0
    assert modes(bin_dir) == {LAUNCHER: 0o755}
    assert main(["install", "--bin-dir", str(bin_dir), "--no-fallback"]) == 1
    assert capsys.readouterr().err.startswith("ratchet: cannot install: --no-fallback requires --agent")
    assert (bin_dir / LAUNCHER).read_bytes() == shim
