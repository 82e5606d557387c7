"""The plugin's log: one escaped line per event, on stderr and in a file that only the owner can read."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ratchet.cni.arguments import read_arguments
from ratchet.cni.config import read_config
from ratchet.node.logs import configure

log = logging.getLogger("ratchet.node.anything")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    root = logging.getLogger("ratchet")
    kept = root.handlers, root.level, root.propagate
    yield
    end()
    root.handlers, root.level, root.propagate = kept


def end() -> None:
    """Close the log file, as the end of the process does."""
    for handler in logging.getLogger("ratchet").handlers:
        if isinstance(handler, logging.StreamHandler) and isinstance(getattr(handler.stream, "name", None), int):
            handler.stream.close()


def start(
    container_id: str = "c0ffee", args: str = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=a", pod: str = "", **keys: Any
) -> None:
    """Configure the log of a call. `pod` is a pod name that the parsing of arguments would reject."""
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": "/run/netns/a",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
    }
    network = {"cniVersion": "1.0.0", "name": "net", "type": "ratchet", **keys}
    arguments = read_arguments(environ)
    if pod:
        arguments = replace(arguments, args={**arguments.args, "K8S_POD_NAME": pod})
    configure(read_config(json.dumps(network).encode()), arguments)


def test_a_line_has_the_verb_the_pod_and_the_sandbox(capsys: Captured) -> None:
    start(container_id="0123456789abcdef")
    log.warning("link %s stands", "a-b")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(f"ratchet[{os.getpid()}] WARNING ADD pod=default/a sandbox=0123456789abc: link a-b stands\n")
    assert err.count("\n") == 1


def test_a_call_without_a_pod_is_logged_with_a_dash(capsys: Captured) -> None:
    start(args="")
    log.warning("x")
    assert "ADD pod=- sandbox=c0ffee: x\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\nb", r"a\r\nb"),
        ("\x1b[2J\x07\0", r"\x1b[2J\x07\x00"),
        ("\u202eabc\u2028\x85", r"\u202eabc\u2028\x85"),
        ("\udc80", r"\udc80"),
        ("100 % é →", "100 % é →"),
    ],
)
def test_unprintable_characters_are_escaped(said: str, written: str, tmp_path: Path, capsys: Captured) -> None:
    start(log_file=str(tmp_path / "log"))
    log.warning("pod says %s.", said)
    err = capsys.readouterr().err
    assert err.endswith(f": pod says {written}.\n")
    assert (tmp_path / "log").read_bytes() == err.encode()


def test_a_traceback_is_logged_in_one_line(capsys: Captured) -> None:
    start()
    try:
        raise ValueError("x\ny")
    except ValueError:
        log.exception("a fault")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ValueError: x" in err


def test_a_percent_sign_is_not_a_format_field(capsys: Captured) -> None:
    start(args="K8S_POD_NAMESPACE=default", pod="100%(levelname)s")
    log.warning("100%% of %s", "%(levelname)s")
    assert capsys.readouterr().err.endswith(" pod=default/100%(levelname)s sandbox=c0ffee: 100% of %(levelname)s\n")


def test_the_file_is_private_and_lines_are_appended(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "log"
    before = os.umask(0)
    try:
        for number in range(2):
            start(log_file=str(path))
            log.warning("number %d", number)
            end()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["number 0", "number 1"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_log_level_sets_the_lowest_logged_level(level: str, capsys: Captured) -> None:
    start(log_level=level)
    levels = ["debug", "info", "warning", "error"]
    for one in levels:
        log.log(getattr(logging, one.upper()), one)
    logged = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert logged == levels[levels.index(level) :]


@pytest.mark.parametrize("kind", ["folder", "in no folder", "link", "in a file"])
def test_an_unwritable_file_is_only_a_warning(kind: str, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "log"
    if kind == "folder":
        path.mkdir()
    elif kind == "in no folder":
        path = path / "missing" / "log"
    elif kind == "link":
        path.symlink_to(tmp_path / "target")
    else:
        path.write_text("")
        path = path / "log"
    start(log_file=str(path))
    log.warning("it goes on")
    first, second = capsys.readouterr().err.splitlines()
    assert f"WARNING ADD pod=default/a sandbox=c0ffee: cannot write log_file {path}: " in first
    assert second.endswith(": it goes on")
    assert not (tmp_path / "target").exists()
