"""The agent's log: one line per event, as text or JSON, with the subject that the thread has set."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ratchet.agent.logs import about, configure
from ratchet.core.pod import PodRef

log = logging.getLogger("ratchet.agent.anything")
Captured = pytest.CaptureFixture[str]
POD = PodRef("default", "a", "uid-a")


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(), logging.getLogger("ratchet")]
    kept = [(one, one.handlers, one.level, one.propagate) for one in loggers]
    yield
    for one, handlers, level, propagate in kept:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def entries(captured: Captured) -> list[dict[str, Any]]:
    out, err = captured.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_a_text_line_contains_its_subject(capsys: Captured) -> None:
    configure("text", "info")
    with about(pod=POD, sandbox="0123456789abcdef", command="ADD", link="l"):
        log.info("it %s", "stands")
    err = capsys.readouterr().err
    begin = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "
    rest = f"ratchet[{os.getpid()}] INFO ADD pod=default/a sandbox=0123456789abc link=l: it stands\n"
    assert re.fullmatch(begin + re.escape(rest), err)


def test_a_text_line_without_a_subject(capsys: Captured) -> None:
    configure("text", "info")
    log.info("x")
    assert capsys.readouterr().err.endswith(f"ratchet[{os.getpid()}] INFO: x\n")


def test_a_json_line_contains_its_subject(capsys: Captured) -> None:
    configure("json", "info")
    with about(pod=POD, sandbox="0123456789abcdef", link="l", command="ADD"):
        log.warning("it %s", "stands")
    log.info("after")
    first, second = entries(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "warning",
        "message": "it stands",
        "pod": "default/a",
        "sandbox": "0123456789abcdef",
        "link": "l",
        "command": "ADD",
    }
    assert set(second) == {"time", "level", "message"}


def test_an_inner_subject_overrides_the_outer_one_until_its_block_ends(capsys: Captured) -> None:
    configure("json", "info")
    with about(pod=POD, link="outer"):
        with about(link="inner", sandbox=""):
            log.info("1")
        log.info("2")
        with pytest.raises(ValueError, match="x"), about(command="DEL"):
            raise ValueError("x")
        log.info("3")
    logged = [(one.get("pod"), one.get("link"), one.get("sandbox"), one.get("command")) for one in entries(capsys)]
    assert logged == [("default/a", "inner", None, None), *[("default/a", "outer", None, None)] * 2]


def test_the_keys_of_a_subject_have_a_fixed_order(capsys: Captured) -> None:
    configure("text", "info")
    with about(link="l"), about(sandbox="s"), about(pod="p"), about(command="ADD"):
        log.info("x")
    assert " INFO ADD pod=p sandbox=s link=l: x" in capsys.readouterr().err


def test_a_thread_has_its_own_subject(capsys: Captured) -> None:
    configure("json", "info")
    meet = threading.Barrier(2, timeout=10)

    def work(name: str) -> None:
        with about(pod=name):
            meet.wait()
            log.info("%s", name)
            meet.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    with about(pod="outer", link="outer"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    logged = entries(capsys)
    assert sorted(one["message"] for one in logged) == ["a", "b"]
    assert all(one["pod"] == one["message"] and "link" not in one for one in logged)


@pytest.mark.parametrize("said", ["a\nb", "\x1b[2J\x07\0", "\u202eabc\u2028\x85", "\udc80", "100 % é →", '"}'])
def test_a_message_stays_on_one_printable_line(said: str, capsys: Captured) -> None:
    for kind in ("text", "json"):
        configure(kind, "info")
        with about(pod=said):
            log.info("pod says %s.", said)
    text, entry = capsys.readouterr().err.splitlines()
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in said)
    assert text.endswith(f" pod={shown}: pod says {shown}.")
    assert entry.isascii()
    assert entry.isprintable()
    assert (json.loads(entry)["pod"], json.loads(entry)["message"]) == (said, f"pod says {said}.")


@pytest.mark.parametrize("kind", ["text", "json"])
def test_a_traceback_is_on_the_line_of_its_message(kind: str, capsys: Captured) -> None:
    configure(kind, "info")
    try:
        raise ValueError("x\ny")
    except ValueError:
        log.exception("a fault")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ValueError: x" in err
    if kind == "json":
        entry = json.loads(err)
        assert entry["message"] == "a fault"
        assert entry["traceback"].splitlines()[0] == "Traceback (most recent call last):"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_messages_below_the_configured_level_are_dropped(level: str, capsys: Captured) -> None:
    configure("json", level)
    levels = ["debug", "info", "warning", "error"]
    for one in levels:
        log.log(getattr(logging, one.upper()), one)
    assert [one["message"] for one in entries(capsys)] == levels[levels.index(level) :]


def test_warnings_of_other_libraries_are_logged_but_not_their_debug_messages(capsys: Captured) -> None:
    configure("json", "debug")
    logging.getLogger("urllib3.connectionpool").debug("chatter")
    logging.getLogger("urllib3.connectionpool").warning("pool\nis full")
    assert [one["message"] for one in entries(capsys)] == ["pool\nis full"]


def test_a_second_configuration_replaces_the_first(capsys: Captured) -> None:
    configure("text", "info")
    configure("json", "info")
    log.info("x")
    assert len(entries(capsys)) == 1
