"""Parts of the embedded API that need no server: ages, protobuf, content negotiation, paths."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ratchet.dev.api.protobuf import decode_protobuf
from ratchet.dev.api.requests import parse_path
from ratchet.dev.api.responses import aggregated_version, negotiate
from ratchet.dev.api.status import ApiError
from ratchet.dev.api.table import age

_NOW = datetime(2024, 1, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("passed", "shown"),
    [
        (timedelta(seconds=-5), "0s"),
        (timedelta(seconds=119), "119s"),
        (timedelta(minutes=2), "2m"),
        (timedelta(minutes=3, seconds=20), "3m20s"),
        (timedelta(minutes=179), "179m"),
        (timedelta(hours=3, minutes=5), "3h5m"),
        (timedelta(hours=30), "30h"),
        (timedelta(days=3, hours=4), "3d4h"),
        (timedelta(days=400), "400d"),
        (timedelta(days=800), "2y70d"),
    ],
)
def test_age_format(passed: timedelta, shown: str) -> None:
    assert age((_NOW - passed).isoformat(), _NOW) == shown


def test_age_without_a_timestamp_is_unknown() -> None:
    assert age(None) == "<unknown>"


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def _envelope(kind: bytes, raw: bytes) -> bytes:
    return b"k8s\x00" + _field(1, _field(1, b"v1") + _field(2, kind)) + _field(2, raw)


def test_a_protobuf_configmap_is_decoded() -> None:
    labels = _field(11, _field(1, b"app") + _field(2, b"web"))
    meta = _field(1, b"x") + labels + _field(14, b"f/a") + _field(14, b"f/b")
    data = _field(2, _field(1, b"a") + _field(2, b"1")) + _field(3, _field(1, b"b") + _field(2, b"\x00"))
    raw = _field(1, meta) + data + bytes([4 << 3, 1])
    assert decode_protobuf(_envelope(b"ConfigMap", raw)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "labels": {"app": "web"}, "finalizers": ["f/a", "f/b"]},
        "data": {"a": "1"},
        "binaryData": {"b": "AA=="},
        "immutable": True,
    }


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"k8s\x00\xff",
        _envelope(b"Pod", b""),
        _envelope(b"ConfigMap", _field(1, b"x")[:-1]),
        _envelope(b"ConfigMap", bytes([1 << 3, 1])),
        _envelope(b"ConfigMap", _field(2, _field(1, b"\xff"))),
    ],
)
def test_malformed_protobuf_is_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decode_protobuf(body)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", ""),
        ("*/*", ""),
        ("application/json", ""),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table"),
        ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", ""),
        ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json", ""),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "PartialObjectMetadata"),
    ],
)
def test_accept_header_selects_the_form(accept: str, form: str) -> None:
    assert negotiate(accept).form == form


@pytest.mark.parametrize("accept", ["text/html", "application/json;as=Table;v=v9;g=meta.k8s.io"])
def test_unacceptable_accept_headers_are_406(accept: str) -> None:
    with pytest.raises(ApiError) as caught:
        negotiate(accept)
    assert caught.value.code == 406


def test_aggregated_discovery_is_selected_by_preference() -> None:
    form = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
    assert aggregated_version(form.format("v2")) == "v2"
    assert aggregated_version(form.format("v3") + "," + form.format("v2beta1")) == "v2beta1"
    assert aggregated_version("application/json," + form.format("v2")) == ""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/nodes", ("nodes", "", "", "")),
        ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
        ("/api/v1/namespaces/a/status", ("namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/pods", ("pods", "a", "", "")),
        ("/api/v1/namespaces/a/pods/b/binding", ("pods", "a", "b", "binding")),
        ("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", ("leases", "a", "b", "")),
        ("/api/v1/pods", ("pods", "", "", "")),
        ("/api/v1/pods/b", None),
        ("/api/v1/namespaces/a/nodes", None),
        ("/api/v1/namespaces/a/configmaps/b/status", None),
        ("/api/v1/namespaces/a/leases", None),
        ("/apis/coordination.k8s.io/v2/leases", None),
        ("/api/v1", None),
        ("/other", None),
    ],
)
def test_paths_are_parsed(path: str, found: tuple[str, str, str, str] | None) -> None:
    parsed = parse_path(path)
    shown = (parsed.kind.plural, parsed.namespace, parsed.name, parsed.subresource) if parsed else None
    assert shown == found
