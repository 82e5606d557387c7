"""Rules for every test: reproducible examples, progress lines for slow tests, no unexpected skips in CI."""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
# Of `make check` (--hypothesis-profile=check): a quarter of the examples.
settings.register_profile("check", settings.get_profile("ci"), max_examples=25)
settings.load_profile("ci")

# Shims that tests start make no patch panel on this machine, unless a test names its own.
os.environ["RATCHET_PANEL"] = ""

PROGRESS_SECONDS = 5.0
EXPECTED_SKIPS = Path(__file__).with_name("expected_skips.txt")
EXHAUSTIVE = "RATCHET_EXHAUSTIVE"


class Progress:
    """Prints a line for each test that has run for PROGRESS_SECONDS, and again after as long.

    With pytest-xdist, the hooks run in the process that has the terminal, for the tests of all workers.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, float]] = {}  # start, and time of the next line
        self._over = threading.Event()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._running[nodeid] = now, now + PROGRESS_SECONDS

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        with self._lock:
            self._running.pop(nodeid, None)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[None]:
        printer = threading.Thread(target=self._print, daemon=True)
        printer.start()
        try:
            return (yield)
        finally:
            self._over.set()
            printer.join()

    def _print(self) -> None:
        while not self._over.wait(1.0):
            for line in self._due(time.monotonic()):
                self._write(line)

    def _due(self, now: float) -> list[str]:
        with self._lock:
            due = {nodeid: start for nodeid, (start, at) in self._running.items() if at <= now}
            self._running |= {nodeid: (start, now + PROGRESS_SECONDS) for nodeid, start in due.items()}
        return [f" … {nodeid.rpartition('::')[2]}: {now - start:.0f} s" for nodeid, start in due.items()]

    def _write(self, line: str) -> None:
        writer = self._config.get_terminal_writer()
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            writer.line(line)
            writer.flush()


class ExpectedSkips:
    """Fails a CI run in which a test was skipped for a reason that EXPECTED_SKIPS does not list."""

    def __init__(self) -> None:
        lines = EXPECTED_SKIPS.read_text().splitlines()
        self._expected = [re.compile(line) for line in lines if line and not line.startswith("#")]
        self._unexpected: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.skipped or not isinstance(report.longrepr, tuple):
            return
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(pattern.fullmatch(reason) for pattern in self._expected):
            self._unexpected[report.nodeid] = reason

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._unexpected and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._unexpected:
            terminalreporter.section(f"skips that {EXPECTED_SKIPS.name} does not list", red=True)
            for nodeid, reason in sorted(self._unexpected.items()):
                terminalreporter.write_line(f"{nodeid}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist has no terminal
        return
    config.pluginmanager.register(Progress(config))
    if os.environ.get("CI"):
        config.pluginmanager.register(ExpectedSkips())


def pytest_collection_finish() -> None:
    """Exempt the modules and tests from garbage collection, which takes a tenth of the CPU with them."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that take minutes, unless RATCHET_EXHAUSTIVE is set."""
    if os.environ.get(EXHAUSTIVE):
        return
    long = [item for item in items if item.get_closest_marker("exhaustive")]
    items[:] = [item for item in items if item not in long]
    config.hook.pytest_deselected(items=long)
