"""A wall clock that steps, for agent processes. Their monotonic clocks are unchanged."""

from __future__ import annotations

from ratchet.dev.agents import AgentProcess

# Python imports the first module of this name on its path before the program (documentation of `site`).
CUSTOMIZE = """
import datetime, os, time

_file, _time, _datetime = os.environ["STEPPED_CLOCK"], time.time, datetime.datetime


def _step():
    with open(_file) as file:
        return float(file.read() or 0)


class Stepped(_datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_step())


time.time = lambda: _time() + _step()
datetime.datetime = Stepped
"""


class SteppedClock:
    """The wall clock of an agent. `step` sets the seconds that it is ahead of the machine's."""

    def __init__(self, agent: AgentProcess) -> None:
        self._agent = agent
        self._file = agent.folder / "clock" / "step"

    def step(self, seconds: float) -> None:
        partial = self._file.with_name("partial")
        partial.write_text(str(seconds))
        partial.rename(self._file)

    def start(self) -> None:
        self._file.parent.mkdir()
        (self._file.parent / "sitecustomize.py").write_text(CUSTOMIZE)
        self.step(0)
        self._agent.variables = {"PYTHONPATH": str(self._file.parent), "STEPPED_CLOCK": str(self._file)}
        self._agent.stop()
        self._agent.start()


def stepped_clock(agent: AgentProcess) -> SteppedClock:
    """Restart an agent with a wall clock of its own."""
    clock = SteppedClock(agent)
    clock.start()
    return clock
