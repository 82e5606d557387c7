"""`ratchet link` against an API server: create, replace, conflicts, clear, and accounts without some permissions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from ratchet.cli.main import main
from ratchet.core.operations import OPERATIONS_NAME, Operation, Verb
from ratchet.dev.api import EmbeddedApi
from ratchet.errors import RatchetError
from ratchet.store.apiserver import connect
from ratchet.store.operation_entries import Entries, OperationEntries

if TYPE_CHECKING:
    from tests.api.conftest import Client

Captured = pytest.CaptureFixture[str]
Json = dict[str, Any]
Ratchet = Callable[..., int]

TOPOLOGY = """
- endpoints: [r1:eth1, r2:eth1]
- {endpoints: [r2:eth2, r3:eth1], state: down}
- {endpoints: [r1:eth3, r3:eth3], wiring: direct}
"""
DOWN = Operation("", Verb.DOWN).as_text()


def declare_links(api: Client, namespace: str) -> None:
    metadata = {"name": "lab", "labels": {"ratchet.topology": "true"}}
    body = {"metadata": metadata, "data": {"links": TOPOLOGY}}
    api.post(api.path("configmaps", namespace), body).accepted(201)


@pytest.fixture
def ratchet(kubeconfig: Path, api: Client, namespace: str) -> Ratchet:
    """Runs `ratchet link` in a namespace that declares links."""
    declare_links(api, namespace)
    options = ["--kubeconfig", str(kubeconfig), "--records-in", namespace, "-n", namespace]
    return lambda action, *arguments: main(["link", action, *arguments, *options])


def stored(api: Client, namespace: str) -> Json:
    """The operations in the ConfigMap, by link."""
    config_map = api.get(api.path("configmaps", namespace, OPERATIONS_NAME)).accepted()
    assert config_map["metadata"]["labels"] == {"ratchet.topology": "operations"}
    return {key: json.loads(text) for key, text in (config_map.get("data") or {}).items()}


def name_of(namespace: str, *parts: str) -> str:
    return ".".join((namespace, *parts))


def test_operations_are_stored_replaced_shown_and_cleared(
    ratchet: Ratchet, api: Client, namespace: str, capsys: Captured
) -> None:
    link, other = name_of(namespace, "r1", "eth1", "r2", "eth1"), name_of(namespace, "r2", "eth2", "r3", "eth1")
    assert ratchet("down", "r1:eth1", "--for", "90s") == 0
    assert capsys.readouterr().out == f"link {link}: down, for 1m30s\n"
    first = stored(api, namespace)[link]
    assert first.keys() == {"operation", "for", "by", "at"}
    assert (first["operation"], first["for"]) == ("down", "1m30s")

    assert ratchet("cut", "r2:eth1", "--one-way") == 0
    assert ratchet("flap", "r3:eth1", "--times", "3", "--down", "200ms", "--up", "1s") == 0
    now = stored(api, namespace)
    assert now.keys() == {link, other}
    assert (now[link]["operation"], now[link]["from"]) == ("cut", "r2:eth1")
    assert (now[other]["times"], now[other]["down"], now[other]["up"]) == (3, "200ms", "1s")

    capsys.readouterr()
    assert ratchet("show", "-o", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(one["link"], one["operation"], one["progress"]) for one in shown] == [
        (link, "cut from r2:eth1", "not begun"),
        (other, "flap 3 times, 200ms down and 1s up", "not begun"),
    ]

    assert ratchet("up", "r1:eth1", "r2:eth2") == 0
    assert {key: one["operation"] for key, one in stored(api, namespace).items()} == {other: "up"}
    assert ratchet("clear", "r3:eth1") == 0
    assert stored(api, namespace) == {}


def test_invalid_and_ended_operations_are_left_to_those_who_clear_them(
    ratchet: Ratchet, api: Client, namespace: str, capsys: Captured
) -> None:
    assert ratchet("down", "r1:eth1") == 0
    ended = '{"operation": "down", "for": "30s", "at": "2020-01-01T00:00:00+00:00"}'
    path = api.path("configmaps", namespace, OPERATIONS_NAME)
    api.patch(path, {"data": {"ended": ended, "invalid": "down"}}).accepted()
    capsys.readouterr()
    assert ratchet("show") == 1
    assert "cannot read the operation of link invalid: expected JSON" in capsys.readouterr().err
    assert ratchet("down", "r2:eth2") == 0
    assert "ended" not in api.get(path).accepted()["data"]
    assert "invalid" in api.get(path).accepted()["data"]
    assert ratchet("clear", "--all") == 0
    assert stored(api, namespace) == {}


def test_nothing_is_stored_for_a_link_in_direct_wiring(
    ratchet: Ratchet, api: Client, namespace: str, capsys: Captured
) -> None:
    assert ratchet("down", "r1:eth1", "r1:eth3") == 1
    assert "cannot hold link r1:eth3 down: it is in direct wiring" in capsys.readouterr().err
    assert api.get(api.path("configmaps", namespace, OPERATIONS_NAME)).code == 404


def test_a_config_map_without_the_label_is_not_changed(
    ratchet: Ratchet, api: Client, namespace: str, capsys: Captured
) -> None:
    body = {"metadata": {"name": OPERATIONS_NAME}, "data": {"mine": "x"}}
    api.post(api.path("configmaps", namespace), body).accepted(201)
    for arguments in (["down", "r1:eth1"], ["clear", "--all"], ["show"]):
        assert ratchet(*arguments) == 1
        assert "it lacks the label ratchet.topology: operations" in capsys.readouterr().err
    assert api.get(api.path("configmaps", namespace, OPERATIONS_NAME)).accepted()["data"] == {"mine": "x"}


def test_a_namespace_that_does_not_exist_is_named(kubeconfig: Path, capsys: Captured) -> None:
    assert main(["link", "down", "r1:eth1", "--kubeconfig", str(kubeconfig), "-n", "typo"]) == 1
    assert capsys.readouterr().err == "ratchet: cannot hold link r1:eth1 down: namespace typo does not exist\n"


def test_operations_need_topologies(ratchet: Ratchet, capsys: Captured) -> None:
    assert ratchet("down", "r1:eth1", "--topologies", "off") == 1
    assert "operations come with topologies, and --topologies is off" in capsys.readouterr().err


@pytest.mark.parametrize("is_stored", [True, False], ids=["patch", "create"])
def test_a_write_is_repeated_after_a_conflict(is_stored: bool, kubeconfig: Path, api: Client, namespace: str) -> None:
    with closing(connect(str(kubeconfig), patience=5.0)) as server:
        mine, theirs = (OperationEntries(server, namespace) for _ in range(2))
        if is_stored:
            theirs.edit(lambda _: {"first": DOWN})

        def change(entries: Entries) -> Entries:
            if "theirs" not in entries:  # in the first try: write between its read and its write
                theirs.edit(lambda latest: {**latest, "theirs": DOWN})
            return {**entries, "mine": DOWN}

        edited = mine.edit(change)
        assert "theirs" in edited.before
        assert mine.read().keys() == {"mine", "theirs", *(["first"] if is_stored else [])}


def test_entries_that_do_not_change_are_not_written(kubeconfig: Path, api: Client, namespace: str) -> None:
    with closing(connect(str(kubeconfig), patience=5.0)) as server:
        entries = OperationEntries(server, namespace)
        entries.edit(lambda _: {})
        assert api.get(api.path("configmaps", namespace, OPERATIONS_NAME)).code == 404
        entries.edit(lambda _: {"link": DOWN})
        before = api.get(api.path("configmaps", namespace, OPERATIONS_NAME)).accepted()
        entries.edit(dict)
        assert api.get(api.path("configmaps", namespace, OPERATIONS_NAME)).accepted() == before
        with pytest.raises(RatchetError, match="cannot write operations: namespace typo does not exist"):
            OperationEntries(server, "typo").edit(lambda _: {"link": DOWN})


@pytest.fixture
def tenant(connect: Callable[[Path], Client], tmp_path: Path) -> Iterator[tuple[Path, Client, list[str]]]:
    """A server on which nobody may read the namespace ratchet: kubeconfig, client, and the denied requests."""
    denied = list[str]()

    @web.middleware
    async def deny(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/api/v1/namespaces/ratchet/"):
            return await handler(request)
        denied.append(f"{request.method} {request.path}")
        message = 'configmaps is forbidden: User "tenant" cannot get resource "configmaps"'
        status = {"kind": "Status", "reason": "Forbidden", "code": 403, "message": message}
        return web.json_response(status, status=403)

    with EmbeddedApi(middlewares=[deny]) as server:
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        yield kubeconfig, connect(kubeconfig), denied


def test_a_tenant_needs_no_access_to_records(tenant: tuple[Path, Client, list[str]], capsys: Captured) -> None:
    kubeconfig, api, denied = tenant
    api.post("/api/v1/namespaces", {"metadata": {"name": "lab"}}).accepted(201)
    declare_links(api, "lab")
    options = ["--kubeconfig", str(kubeconfig), "-n", "lab"]
    assert main(["link", "down", "r1:eth1", "--for", "30s", *options]) == 0
    assert main(["link", "show", "-o", "json", *options]) == 0
    out, err = capsys.readouterr()
    assert '"progress": "acting"' in out
    assert err == ""
    assert len(denied) == 2, "one request of each command"
    assert main(["link", "clear", "r1:eth1", *options]) == 0
    assert stored(api, "lab") == {}
