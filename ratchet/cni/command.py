"""The command of a call, and the error for a variable. There are few imports, because VERSION needs no others."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ratchet.core.escape import quoted
from ratchet.errors import InvalidEnvironmentError


class Command(StrEnum):
    """The operations of CNI 1.1 (SPEC.md, section 2, "CNI operations")."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


def read_command(environ: Mapping[str, str]) -> Command:
    """Read CNI_COMMAND. Raises InvalidEnvironmentError."""
    text = environ.get("CNI_COMMAND", "")
    if not text:
        raise InvalidEnvironmentError("cannot read the environment: CNI_COMMAND is missing")
    try:
        return Command(text)
    except ValueError as error:
        raise invalid_variable("CNI_COMMAND", text, f"is none of {', '.join(Command)}") from error


def invalid_variable(variable: str, value: str, cause: str) -> InvalidEnvironmentError:
    """The error for an invalid value of a variable."""
    return InvalidEnvironmentError(f"cannot read {variable}: {quoted(value)} {cause}")
