"""Strict JSON decoder (RFC 8259) with one kind of error."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any


def decode(text: bytes) -> Any:
    """Decode a UTF-8 JSON text.

    Raises ValueError with a readable cause if the text is not UTF-8 or not JSON. NaN and infinities, which Python's
    decoder accepts, are invalid. So are numbers out of range and too deep nesting.
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
