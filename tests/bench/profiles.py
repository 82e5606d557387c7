"""The profile of the agent's calls: the time that Ratchet's functions take under the profiler."""

from __future__ import annotations

import io
import pstats
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHOWN, WRITTEN = 30, 80


@dataclass(frozen=True, slots=True)
class Line:
    """A function: its calls per CNI call, and its ms per CNI call with and without the functions that it calls."""

    where: str
    times: float
    total: float
    own: float


@dataclass(frozen=True, slots=True)
class Profile:
    """The lines of Ratchet's functions, slowest first. `calls`: profiled CNI calls. `text`: the whole profile."""

    calls: int
    lines: tuple[Line, ...]
    text: str

    @classmethod
    def read(cls, path: Path) -> Profile:
        """The profile that traced_agent.py wrote."""
        out = io.StringIO()
        stats: Any = pstats.Stats(str(path), stream=out)
        stats.sort_stats("cumulative").print_stats(WRITTEN)
        calls = next(count for (_, _, name), (count, *_) in stats.stats.items() if name == "_serve")
        lines = [
            Line(_where(file, number, name), count / calls, total / calls * 1e3, own / calls * 1e3)
            for (file, number, name), (_, count, own, total, _) in stats.stats.items()
            if file.startswith(f"{ROOT}/ratchet/")
        ]
        lines.sort(key=lambda line: -line.total)
        return cls(calls, tuple(lines), out.getvalue().replace(f"{ROOT}/", ""))

    def table(self) -> str:
        """The slowest functions of Ratchet."""
        head = f"An ADD that completes a vEth link, in the agent: ms under the profiler, mean of {self.calls} calls"
        rows = [f"{line.total:7.2f} {line.own:7.2f} {line.times:6.1f}  {line.where}" for line in self.lines[:SHOWN]]
        return "\n".join([head, "  total     own  times", *rows])

    def write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{self.table()}\n\n{self.text}")


def _where(file: str, number: int, name: str) -> str:
    return f"{file.removeprefix(f'{ROOT}/')}:{number} {name}"
