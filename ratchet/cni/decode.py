"""JSON as RFC 8259 has it, and one kind of error for whatever is not."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any


def decode(text: bytes) -> Any:
    """The value that a UTF-8 text stands for.

    Raises ValueError for all else, with a cause for a person: text that is not UTF-8, NaN and infinities (which
    Python's decoder would take), numbers too large to hold, nesting too deep to follow.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is out of range")
    return number
