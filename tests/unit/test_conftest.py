"""The helpers of every test run: progress lines for slow tests, and skips that CI does not expect."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

import pytest

from ratchet.dev.testbed import wait_for
from tests import conftest
from tests.conftest import PROGRESS_SECONDS, ExpectedSkips, Progress

pytest_plugins = "pytester"


class Terminal:
    """The parts of pytest's configuration that lead to its terminal, and the lines that were written to it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.pluginmanager = self

    def get_terminal_writer(self) -> Terminal:
        return self

    def line(self, text: str) -> None:
        self.lines.append(text)

    def flush(self) -> None:
        pass

    def getplugin(self, _: str) -> None:
        """There is no capture, as with `-s`."""


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


@pytest.fixture
def progress(terminal: Terminal) -> Progress:
    return Progress(cast(pytest.Config, terminal))


def test_a_slow_test_has_a_progress_line_after_each_interval(progress: Progress) -> None:
    before = time.monotonic()
    progress.pytest_runtest_logstart("tests/test_x.py::TestX::test_slow")
    after = time.monotonic()
    assert progress._due(before + PROGRESS_SECONDS - 0.1) == []
    first = after + PROGRESS_SECONDS
    assert progress._due(first) == [f" … test_slow: {PROGRESS_SECONDS:.0f} s"]
    assert progress._due(first + PROGRESS_SECONDS - 0.1) == []
    assert progress._due(first + PROGRESS_SECONDS) == [f" … test_slow: {2 * PROGRESS_SECONDS:.0f} s"]


def test_a_finished_test_has_no_progress_line(progress: Progress) -> None:
    for name in ("test_over", "test_slow"):
        progress.pytest_runtest_logstart(f"tests/test_x.py::{name}")
    progress.pytest_runtest_logfinish("tests/test_x.py::test_over")
    (line,) = progress._due(time.monotonic() + PROGRESS_SECONDS)
    assert line.startswith(" … test_slow: ")


def test_progress_lines_are_printed_while_tests_run_and_not_after(
    progress: Progress, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conftest, "PROGRESS_SECONDS", 0.0)
    before = set(threading.enumerate())
    loop = cast(Any, progress.pytest_runtestloop())
    next(loop)
    (printer,) = set(threading.enumerate()) - before
    progress.pytest_runtest_logstart("tests/test_x.py::test_slow")
    wait_for("a progress line", lambda: bool(terminal.lines), 30)
    assert terminal.lines[0].startswith(" … test_slow: ")
    with pytest.raises(StopIteration) as ended:
        loop.send(True)
    assert ended.value.value is True, "the result of the loop is passed on"
    assert not printer.is_alive()


SKIPPED = """
import pytest

@pytest.mark.skip(reason={reason!r})
def test_skipped():
    pass

@pytest.mark.xfail(reason="not yet")
def test_expected_failure():
    assert False

def test_passed():
    pass
"""


@pytest.mark.parametrize(
    "reason", ["needs Graphviz", "this kernel has no such interface: geneve: Unknown device type."]
)
def test_a_listed_skip_does_not_fail_the_run(pytester: pytest.Pytester, reason: str) -> None:
    pytester.makepyfile(SKIPPED.format(reason=reason))
    result = pytester.runpytest_inprocess(plugins=[ExpectedSkips()])
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("reason", ["no time", "needs Graphviz 9", "", "# Reasons"])
def test_a_skip_that_is_not_listed_fails_the_run_and_is_named(pytester: pytest.Pytester, reason: str) -> None:
    path = pytester.makepyfile(SKIPPED.format(reason=reason))
    result = pytester.runpytest_inprocess(plugins=[ExpectedSkips()])
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["*skips that expected_skips.txt does not list*", f"{path.name}::test_skipped: {reason}*"]
    )


def test_a_failed_run_keeps_its_exit_status(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SKIPPED.format(reason="no time"))
    result = pytester.runpytest_inprocess("-k", "nothing", plugins=[ExpectedSkips()])
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
