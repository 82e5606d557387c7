"""What holds for every test: generated examples are the same in every run, and as slow as the machine is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("ci")


SAY_EVERY_SECONDS = 5.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Have a test that takes long say so, again and again, so that a person sees what is going on."""
    over = threading.Event()
    writer = item.config.get_terminal_writer()
    capture = item.config.pluginmanager.getplugin("capturemanager")

    def say() -> None:
        seconds = 0.0
        while not over.wait(SAY_EVERY_SECONDS):
            seconds += SAY_EVERY_SECONDS
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                writer.line(f" … {item.name}: {seconds:.0f} s")
                writer.flush()

    speaker = threading.Thread(target=say, daemon=True)
    speaker.start()
    try:
        return (yield)
    finally:
        over.set()
        speaker.join()
