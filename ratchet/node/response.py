"""CNI calls as the runtime makes them: parse the input of a call, make the response to a failed one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ratchet.cni.answer import answer_version, asked_version, error_json, version_json
from ratchet.cni.arguments import Arguments, read_arguments
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig, read_config
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

# The exit status of a call, and the JSON for its stdout; None: nothing.
Response = tuple[int, dict[str, Any] | None]


def parse(environ: Mapping[str, str], stdin: bytes) -> tuple[Arguments, NetworkConfig | None]:
    """The arguments and the network configuration of a call. Raises RatchetError.

    VERSION has no network configuration: answer it with `version`.
    """
    arguments = read_arguments(environ)
    return arguments, None if arguments.command is Command.VERSION else read_config(stdin, arguments.command)


def version(stdin: bytes) -> dict[str, Any]:
    """The result of VERSION."""
    return version_json(asked_version(stdin))


def failure(error: Exception, stdin: bytes) -> Response:
    """Log the error that ended a call, and return the response with it."""
    if isinstance(error, RatchetError):
        log.error("%s%s", error, f" ({error.details})" if error.details else "")
    else:
        log.error("a fault in ratchet", exc_info=error)
        # Without a CNI error on stdout, the runtime would not learn the reason.
        error = RatchetError(f"cannot serve the call: {type(error).__name__}: {error}", details="this is a bug")
    return 1, error_json(error, answer_version(stdin))


def log_keys(network: NetworkConfig) -> None:
    """Log the keys of a network configuration that Ratchet ignores."""
    if network.ignored:
        log.info("keys of 2017 ignored keys=%s", ", ".join(network.ignored))
    if network.unknown:
        log.warning("unknown keys in the network configuration keys=%s", ", ".join(network.unknown))
