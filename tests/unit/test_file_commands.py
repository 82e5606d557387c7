"""Commands that read files: whatever is in a file, they print a result, or a message and exit with 1."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ratchet.cli.commands import printing_errors
from ratchet.cli.graph import diagram_of_files, print_graph
from ratchet.cli.importing import print_topology
from ratchet.cli.validate import validate

COMMANDS: dict[str, Callable[[str], int]] = {
    "validate": lambda file: validate([file], "lab", strict=True),
    "graph": lambda file: print_graph(diagram_of_files([file], "lab"), "mermaid"),
    "import": lambda file: print_topology(file, None),
}

META: dict[str, Any] = {"namespace": "lab", "labels": {"ratchet": "true"}, "annotations": {"ratchet.pod_name": "r"}}
LINKS = json.dumps([{"endpoints": ["a:x", "b:x"], "mtu": 1400}])
TEMPLATE = {"metadata": META, "spec": {"hostNetwork": True}}
MESHNET = {"peer_pod": "b", "local_intf": "x", "peer_intf": "y", "local_ip": "10.0.0.1/24", "peer_ip": "10.0.0.2/24"}
OWNER = {"kind": "ReplicaSet", "name": "fw-1"}
TIMES = {"creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z"}
DATA = {"data": {"links": LINKS}, "binaryData": {"y": "eA=="}}
REPLICAS = {"replicas": 2, "ordinals": {"start": 1}}
MAC = {"node": "a", "interface": "y", "mac": "02:00:00:00:00:01"}
VALID: list[dict[str, Any]] = [
    {"kind": "Pod", "metadata": {"name": "a", "ownerReferences": [OWNER], **TIMES, **META}, "status": {"phase": "x"}},
    {"kind": "Pod", "metadata": {"generateName": "a-", **META}, "spec": {"nodeName": "node", "hostNetwork": True}},
    {"kind": "ConfigMap", "metadata": {"name": "lab", "labels": {"ratchet.topology": "true"}}, **DATA},
    {"kind": "ConfigMap", "metadata": {"name": "lab", "annotations": {"x": ""}}, **DATA},
    {"kind": "StatefulSet", "metadata": {"name": "r"}, "spec": {**REPLICAS, "template": TEMPLATE}},
    {"kind": "Job", "metadata": {"name": "r"}, "spec": {"parallelism": 2, "completions": 2, "template": TEMPLATE}},
    {"kind": "CronJob", "metadata": {"name": "r"}, "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
    {"kind": "Rollout", "metadata": {"name": "r"}, "spec": {**REPLICAS, "template": TEMPLATE}},
    {"kind": "List", "items": [{"kind": "Topology", "metadata": {"name": "a"}, "spec": {"links": [MESHNET]}}]},
    {
        "name": "lab",
        "topology": {
            "links": [{"endpoints": ["a:x", "b:x"], "mtu": 1400}, {"type": "veth", "endpoints": [MAC, "b:y"]}]
        },
    },
]

# What takes the place of a value, as YAML.
ODD = [
    *("~", "NULL", "true", "'true'", "7", "-1", "1.5", "1:30", "2001-99-99", "9" * 5000, "[]", "[x]", "{}", "{x: y}"),
    *("[[[[x]]]]", "!!int x", "!!bool x", "!!float x", "!!null x", "!!binary x", "!!timestamp x", "!!set {x}", "!x y"),
    *(
        "&a x",
        "*a",
        "&a [*a]",
        "{<<: x}",
        "{<<: {kind: Pod}}",
        "{[x]: y}",
        "{x: 1, x: 2}",
        "{1: x, ~: y}",
        "! 7",
        "a b",
    ),
    *('"\\0"', '"\\e[31m\\n"', "'é\u2028'", "'" + "x" * 300 + "'", "R1", "[", "a: b: c", "!!str 7", "'a:x'", "List"),
    *('"\\ud800"', "Pod", "n"),
]


def paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a document."""
    yield path
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(one, (*path, key))


PLACES = [(index, path) for index, document in enumerate(VALID) for path in paths(document)]


def replaced(value: Any, path: tuple[Any, ...], placeholder: str) -> Any:
    """A copy of a document with a placeholder at a path."""
    if not path:
        return placeholder
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], placeholder)
    return copy


def with_odd_value(place: tuple[int, tuple[Any, ...]], odd: str) -> str:
    """All documents, one of them with an odd value."""
    index, path = place
    document = replaced(VALID[index], path, "PLACEHOLDER")
    text = yaml.safe_dump(document, default_flow_style=True, width=100_000)
    return re.sub("'?PLACEHOLDER'?", lambda _: odd, text, count=1)


def run(command: str, file: Path) -> tuple[int, str]:
    """The exit status of a command, and what it prints. An exception fails the test, as a traceback would."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = printing_errors(lambda: COMMANDS[command](str(file)))
    return status, out.getvalue() + err.getvalue()


def check(command: str, content: bytes, file: Path) -> None:
    """Run a command on a file: it has to print printable text, and an error if it fails."""
    file.write_bytes(content)
    status, printed = run(command, file)
    assert status in (0, 1)
    assert all(line.isprintable() for line in printed.split("\n"))
    printed.encode()
    if status:
        assert re.search(r"^(ratchet: cannot |error: |warning: |not converted: |data:)", printed, re.MULTILINE), printed


@pytest.mark.exhaustive
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_value_at_any_place_is_no_traceback(odd: str, command: str, tmp_path: Path) -> None:
    for place in PLACES:
        check(command, with_odd_value(place, odd).encode(), tmp_path / "f.yaml")


def test_the_documents_are_valid_without_odd_values(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    for document in VALID:
        file.write_text(yaml.safe_dump(document))
        assert "cannot" not in run("validate", file)[1] + run("graph", file)[1]
    assert run("import", file)[0] == 0


odd_documents = st.builds(with_odd_value, st.sampled_from(PLACES), st.sampled_from(ODD))
documents = st.sampled_from([*ODD, *(yaml.safe_dump(one, default_flow_style=True) for one in VALID)])
contents = (
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass"))
    | odd_documents.map(str.encode)
    | st.lists(odd_documents | documents, max_size=4).map(lambda texts: "\n---\n".join(texts).encode())
)


@pytest.mark.parametrize("command", COMMANDS)
def test_any_bytes_are_a_result_or_an_error(command: str, tmp_path: Path) -> None:
    @settings(deadline=None)
    @given(contents)
    @example(b"\xff\xfe")
    @example(b"\xef\xbb\xbfkind: Pod")
    @example(b"[" * 5000)
    @example(b"- " * 5000)
    @example(b"a: &a [" + b"*a, " * 100 + b"]")
    def check_any(content: bytes) -> None:
        check(command, content, tmp_path / "f.yaml")

    check_any()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["missing.yaml", "folder", "\x1b[31m", "\0"])
def test_a_file_that_cannot_be_opened_is_an_error(name: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    status, printed = run(command, tmp_path / name)
    assert status == 1
    assert printed.startswith("ratchet: cannot read ")
    assert "\x1b" not in printed
