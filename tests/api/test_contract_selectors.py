"""Lists: label selectors, field selectors and pagination."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.conftest import Client


@pytest.fixture
def labelled(api: Client, namespace: str) -> str:
    """The path of a collection of leases: a (tier=web, size=3), b (tier=db), c (no labels)."""
    path = api.path("leases", namespace)
    for name, labels in (("a", {"tier": "web", "size": "3"}), ("b", {"tier": "db"}), ("c", {})):
        api.post(path, {"metadata": {"name": name, "labels": labels}}).accepted(201)
    return path


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("tier=web", "a"),
        ("tier==web", "a"),
        ("tier!=web", "bc"),
        ("tier in (web,db)", "ab"),
        ("tier in (web)", "a"),
        ("tier notin (web)", "bc"),
        ("tier", "ab"),
        ("!tier", "c"),
        ("tier,size=3", "a"),
        ("tier in (web, db),!size", "b"),
        (" tier = web , size ", "a"),
        ("tier=", ""),
        ("size>2", "a"),
        ("size<3", ""),
        ("", "abc"),
        ("example.com/none", ""),
    ],
)
def test_label_selectors(api: Client, labelled: str, selector: str, names: str) -> None:
    assert api.items(labelled, labelSelector=selector) == list(names)


@pytest.mark.parametrize(
    "selector", ["tier in web", "tier in (web", "=web", "tier web", "tier=a b", "!", "a b c", "-a=b", "tier=web,"]
)
def test_malformed_label_selectors_are_400(api: Client, labelled: str, selector: str) -> None:
    api.get(labelled, labelSelector=selector).refused(400, "BadRequest")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=b", "b"),
        ("metadata.name==b", "b"),
        ("metadata.name!=b", "ac"),
        ("metadata.name=b,metadata.name=c", ""),
        ("metadata.namespace!=default", "abc"),
        ("metadata.namespace=default", ""),
        ("", "abc"),
    ],
)
def test_field_selectors(api: Client, labelled: str, selector: str, names: str) -> None:
    assert api.items(labelled, fieldSelector=selector) == list(names)


@pytest.mark.parametrize("resource", ["configmaps", "leases", "pods", "events"])
def test_unsupported_field_selectors_are_400(api: Client, namespace: str, resource: str) -> None:
    message = api.get(api.path(resource, namespace), fieldSelector="spec.nothing=1").refused(400, "BadRequest")
    wordings = ("field label not supported: spec.nothing", '"spec.nothing" is not a known field selector')
    assert any(wording in message for wording in wordings)


def test_malformed_field_selectors_are_400(api: Client, namespace: str) -> None:
    api.get(api.path("pods", namespace), fieldSelector="metadata.name").refused(400, "BadRequest")


@pytest.fixture
def events(api: Client, namespace: str) -> Iterator[str]:
    """The path of a collection of two events about the pods p and q."""
    path = api.path("events", namespace)
    for name, reason, kind in (("p", "Linked", "Normal"), ("q", "Failed", "Warning")):
        involved = {"kind": "Pod", "name": name, "namespace": namespace, "uid": f"uid-{name}"}
        event = {"metadata": {"name": name}, "involvedObject": involved, "reason": reason, "type": kind}
        api.post(path, event).accepted(201)
    yield path
    for name in ("p", "q"):
        api.delete(f"{path}/{name}")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("involvedObject.name=p", "p"),
        ("involvedObject.uid=uid-q,involvedObject.kind=Pod", "q"),
        ("reason=Linked", "p"),
        ("type!=Normal", "q"),
        ("involvedObject.kind=Node", ""),
    ],
)
def test_event_field_selectors(api: Client, events: str, selector: str, names: str) -> None:
    assert api.items(events, fieldSelector=selector) == list(names)


def test_pages_contain_the_whole_list(api: Client, namespace: str) -> None:
    path = api.path("leases", namespace)
    expected = [f"l{number}" for number in range(5)]
    for name in expected:
        api.post(path, {"metadata": {"name": name}}).accepted(201)
    names, token, pages = [], "", []
    while True:
        body = api.get(path, limit=2, **({"continue": token} if token else {})).accepted()
        names += [item["metadata"]["name"] for item in body["items"]]
        pages.append(len(body["items"]))
        assert body["metadata"].get("remainingItemCount", 0) == 5 - len(names)
        token = body["metadata"].get("continue", "")
        if not token:
            break
    assert names == expected
    assert pages == [2, 2, 1]


def test_malformed_continue_tokens_are_400(api: Client, namespace: str) -> None:
    api.get(api.path("leases", namespace), **{"limit": 2, "continue": "!"}).refused(400, "BadRequest")


def test_a_list_of_all_namespaces_includes_the_test_namespace(api: Client, namespace: str, labelled: str) -> None:
    body = api.get("/apis/coordination.k8s.io/v1/leases", labelSelector="tier=db").accepted()
    assert namespace in [item["metadata"]["namespace"] for item in body["items"]]
