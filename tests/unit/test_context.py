"""The API server and the namespace of a kubeconfig and context, chosen as kubectl chooses them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ratchet.cli.main import main
from ratchet.errors import InvalidConfigError
from ratchet.store import connection
from ratchet.store.apiserver import connect
from ratchet.store.connection import namespace_of


def kubeconfig(folder: Path, name: str, current: str, **namespaces: str) -> str:
    """Write a kubeconfig and return its path. `namespaces` has the namespace of each context by its name."""
    clusters = [{"name": one, "cluster": {"server": f"http://{one}.example:1"}} for one in namespaces]
    contexts = [
        {"name": one, "context": {"cluster": one, "user": "u", **({"namespace": space} if space else {})}}
        for one, space in namespaces.items()
    ]
    users = [{"name": "u", "user": {"token": "t"}}]
    path = folder / name
    sections = {"clusters": clusters, "contexts": contexts, "users": users, "current-context": current}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **sections}))
    return str(path)


def test_the_namespace_is_that_of_the_context_or_default(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "config", "one", one="lab", two="", three="other")
    assert namespace_of(file) == "lab"
    assert namespace_of(file, "two") == "default"
    assert namespace_of(file, "three") == "other"
    assert namespace_of(None) == "default"


def test_a_named_context_is_used_and_several_files_are_merged(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path, "first", "one", one="a")
    second = kubeconfig(tmp_path, "second", "two", two="b")
    both = os.pathsep.join((first, second))
    with pytest.raises(Exception, match=r"http://one\.example:1"):
        connect(both, patience=0.1).get("/version")
    with pytest.raises(Exception, match=r"http://two\.example:1"):
        connect(both, context="two", patience=0.1).get("/version")
    assert namespace_of(both, "two") == "b"


def test_a_command_in_a_pod_uses_the_namespace_of_its_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "namespace"
    monkeypatch.setattr(connection, "POD_NAMESPACE", own)
    assert namespace_of(None) == "default"
    own.write_text("lab\n")
    assert namespace_of(None) == "lab"


ADVICE = "         name a kubeconfig with --kubeconfig or in $KUBECONFIG, or copy it to ~/.kube/config\n"


@pytest.mark.parametrize("command", ["links", "wait", "graph", "gc"])
def test_a_command_without_a_kubeconfig_names_the_places_of_one(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)
    assert main([command]) == 1
    cause = f"$KUBECONFIG is not set, and there is no {tmp_path}/.kube/config"
    assert capsys.readouterr().err == f"ratchet: cannot find a cluster: {cause}\n{ADVICE}"


@pytest.mark.parametrize("flags", [["--kubeconfig", "/none"], ["--kubeconfig", "/none", "--context", "lab"]])
def test_a_command_with_an_unusable_kubeconfig_names_the_flags(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wait", *flags]) == 1
    assert capsys.readouterr().err == f"ratchet: cannot use kubeconfig /none: no such file\n{ADVICE}"


def test_the_error_for_an_unusable_kubeconfig_names_the_file(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "config", "one", one="lab")
    with pytest.raises(InvalidConfigError, match=f"cannot use kubeconfig {file}: .*nowhere"):
        connect(file, context="nowhere").get("/version")
    with pytest.raises(InvalidConfigError, match="cannot use kubeconfig /none: "):
        namespace_of("/none")
