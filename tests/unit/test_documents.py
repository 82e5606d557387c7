"""Typed values of YAML files: types as kubectl gives them, and errors with file, line and path."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.cli import documents, yaml_nodes
from ratchet.cli.documents import ManifestError, Value, parse_documents, read_documents
from ratchet.cli.yaml_nodes import Kind


def parsed(text: str) -> Value:
    (document,) = parse_documents("f.yaml", text.encode())
    return document


def failure(value: object) -> str:
    """The error of a reading method."""
    with pytest.raises(ManifestError) as caught:
        value()  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((text, Kind.NOTHING) for text in ("", "~", "null", "Null", "NULL", "!!null x")),
        *((text, Kind.BOOLEAN) for text in ("true", "True", "yes", "on", "Off", "n", "!!bool no")),
        *((text, Kind.NUMBER) for text in ("7", "-1", "1.5", "1e3", "0x1F", "1_000", ".inf", "!!int 7", "9" * 5000)),
        *((text, Kind.TEXT) for text in ("1:30", "12:34:56:12:34:56", "2001-99-99", "tRue", '"~"', "!!str 7", "! 7")),
        *((text, Kind.OTHER) for text in ("!!int x", "!!bool x", "!!binary eA==", "!x y", "!!timestamp 2001-01-01")),
        ("[]", Kind.LIST),
        ("{}", Kind.MAPPING),
    ],
)  # fmt: skip
def test_types_are_those_of_kubectl(text: str, kind: Kind) -> None:
    assert parsed(f"a: {text}")["a"].kind is kind


def test_values_are_read_by_type() -> None:
    value = parsed("text: a\nwhole: 3\nflag: off\nnone:\nlist: [x, 1.5]\ntexts: {a: b, c: ~}\n")
    assert value["text"].text() == "a"
    assert (value["whole"].whole_number(0), value["none"].whole_number(7), value["missing"].whole_number(8)) == (
        3,
        7,
        8,
    )
    assert (value["flag"].flag(default=True), value["none"].flag(default=True)) == (False, True)
    assert [one.scalar() for one in value["list"].items()] == ["x", "1.5"]
    assert value["texts"].texts() == {"a": "b", "c": ""}
    assert (value["none"].items(), value["none"].fields(), value["none"].text("x")) == ([], {}, "x")
    assert list(value.fields()) == ["text", "whole", "flag", "none", "list", "texts"]


def test_an_error_names_file_line_path_and_expected_type() -> None:
    value = parsed('a:\n- b\n- "c d":\n    e.f: 7\n')
    inner = value["a"].items()[1]["c d"]["e.f"]
    place = "cannot read f.yaml: line 4: a[1][c d][e.f]"
    assert failure(inner.text) == f"{place}: expected text, found a number (7)"
    assert failure(inner.flag) == f"{place}: expected true or false, found a number (7)"
    assert failure(inner.items) == f"{place}: expected a list, found a number (7)"
    assert failure(inner.fields) == f"{place}: expected a mapping, found a number (7)"
    assert failure(value["a"].text) == "cannot read f.yaml: line 2: a: expected text, found a list"
    assert failure(value["x"]["y"].text) == "cannot read f.yaml: line 1: x.y: expected text, found nothing"
    assert failure(lambda: parsed("a: -1")["a"].whole_number(0)).endswith("at least 0, found a number (-1)")
    assert failure(lambda: parsed(f"a: {'9' * 5000}")["a"].whole_number(0)).endswith("9999...)")


def test_aliases_and_merge_keys_are_followed() -> None:
    value = parsed("a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: [*b, {y: 4, z: 5}], '<<': 6}\nd: *b\n")
    assert {key: one.scalar() for key, one in value["c"].fields().items()} == {"y": "3", "z": "5", "x": "1", "<<": "6"}
    assert value["d"].identity == value["b"].identity


def test_merge_keys_cannot_multiply_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_nodes, "MERGED_MOST", 1000)
    lines = ["a0: &a0 {k: 0}", *(f"a{one}: &a{one} {{<<: *a{one - 1}, k{one}: 0}}" for one in range(1, 100))]
    assert "merge keys copy more than 1000 fields" in failure(lambda: parsed("\n".join(lines)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: {b: &x [*x]}", "line 1: the anchor of *x is missing, or has the alias in it"),
        ("a: *x", "line 1: the anchor of *x is missing, or has the alias in it"),
        ("\n? [a]\n: b", "line 2: expected text as a key, found a list"),
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key a"),
        ("a:\n  <<: 7", "line 2: expected a mapping to merge, found a number"),
        ("a:\n " + "[" * 200, "line 2: nested deeper than 100 levels"),
        ("a: b\nc: \x07", "line 2: characters that YAML does not allow"),
        ("a: b\nc: {", "line 3: did not find expected node content"),
    ],
)
def test_a_text_that_cannot_be_parsed_is_an_error(content: str, expected: str) -> None:
    assert failure(lambda: parsed(content)) == f"cannot read f.yaml: {expected}"


def test_an_anchor_is_of_its_document() -> None:
    assert "*x is missing" in failure(lambda: parsed("a: &x 1\n---\nb: *x"))


def test_a_file_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SIZE_MOST", 1 << 20)
    assert failure(lambda: read_documents("/dev/zero")) == "cannot read /dev/zero: larger than 1 MiB"


def test_a_byte_order_mark_and_empty_documents_are_skipped() -> None:
    first, second = parse_documents("f", b"\xef\xbb\xbfa: b\n---\n# nothing\n---\nc: d\n")
    assert (first["a"].text(), second["c"].text(), second.line) == ("b", "d", 5)
