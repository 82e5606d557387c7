"""The response to a CNI call: decode the runtime's input, serve it, encode the result or the error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ratchet.cni.answer import answer_version, asked_version, error_json, version_json
from ratchet.cni.arguments import Arguments, Command, read_arguments
from ratchet.cni.config import NetworkConfig, read_config
from ratchet.errors import RatchetError

log = logging.getLogger(__name__)

Serve = Callable[[Arguments, NetworkConfig], dict[str, Any] | None]


def respond(environ: Mapping[str, str], stdin: bytes, serve: Serve) -> tuple[int, dict[str, Any] | None]:
    """Serve a call. Returns its exit status and the JSON for stdout (None: nothing).

    `serve` runs every command except VERSION.
    """
    try:
        arguments = read_arguments(environ)
        if arguments.command is Command.VERSION:
            return 0, version_json(asked_version(stdin))
        return 0, serve(arguments, read_config(stdin, arguments.command))
    except RatchetError as error:
        log.error("%s%s", error, f" ({error.details})" if error.details else "")
        return 1, error_json(error, answer_version(stdin))
    except Exception as fault:  # without a CNI error on stdout, the runtime would not learn the reason
        log.exception("a fault in ratchet")
        bug = RatchetError(f"cannot serve the call: {type(fault).__name__}: {fault}", details="this is a bug")
        return 1, error_json(bug, answer_version(stdin))


def log_keys(network: NetworkConfig) -> None:
    """Log the keys of a network configuration that Ratchet ignores."""
    if network.ignored:
        log.info("ignored keys of 2017, which mean nothing any more: %s", ", ".join(network.ignored))
    if network.unknown:
        log.warning("unknown keys in the network configuration: %s", ", ".join(network.unknown))
