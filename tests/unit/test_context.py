"""Which API and which namespace are meant: as kubectl has them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ratchet.errors import InvalidConfigError
from ratchet.store.apiserver import connect, namespace_of


def kubeconfig(folder: Path, name: str, current: str, **namespaces: str) -> str:
    """A kubeconfig with a context for each of these namespaces, by its name."""
    clusters = [{"name": one, "cluster": {"server": f"http://{one}.example:1"}} for one in namespaces]
    contexts = [
        {"name": one, "context": {"cluster": one, "user": "u", **({"namespace": space} if space else {})}}
        for one, space in namespaces.items()
    ]
    users = [{"name": "u", "user": {"token": "t"}}]
    path = folder / name
    said = {"clusters": clusters, "contexts": contexts, "users": users, "current-context": current}
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **said}))
    return str(path)


def test_the_contexts_namespace_is_meant_or_else_default(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "config", "one", one="lab", two="", three="other")
    assert namespace_of(file) == "lab"
    assert namespace_of(file, "two") == "default"
    assert namespace_of(file, "three") == "other"
    assert namespace_of(None) == "default"


def test_a_context_is_used_where_one_is_named_and_files_are_put_together(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path, "first", "one", one="a")
    second = kubeconfig(tmp_path, "second", "two", two="b")
    both = os.pathsep.join((first, second))
    with pytest.raises(Exception, match=r"http://one\.example:1"):
        connect(both, patience=0.1).get("/version")
    with pytest.raises(Exception, match=r"http://two\.example:1"):
        connect(both, context="two", patience=0.1).get("/version")
    assert namespace_of(both, "two") == "b"


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path, "config", "one", one="lab")
    with pytest.raises(InvalidConfigError, match=f"cannot use kubeconfig {file}: .*nowhere"):
        connect(file, context="nowhere").get("/version")
    with pytest.raises(InvalidConfigError, match="cannot use kubeconfig /none: "):
        namespace_of("/none")
