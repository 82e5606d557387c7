"""The daemonless plugin: one process for each call of the runtime, which reads, does, answers and ends."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ratchet.cni.answer import answer_version, asked_version, error_json, version_json
from ratchet.cni.arguments import Arguments, Command, read_arguments
from ratchet.cni.config import DEFAULT_STATE_DIR, NetworkConfig, read_config
from ratchet.errors import RatchetError, TryAgainError
from ratchet.node.logs import configure

log = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
KUBECONFIG = "/etc/cni/net.d/ratchet.d/kubeconfig"


def run(kubeconfig: str | None = None, state_dir: str | None = None) -> NoReturn:
    """Serve the call and end the process.

    At once: to take down some 800 imported modules one by one is a fifth of a call's time, and of use to nobody.
    """
    status = main(kubeconfig, state_dir)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def main(kubeconfig: str | None = None, state_dir: str | None = None) -> int:
    """Serve the call that the environment and stdin describe; the process's exit status.

    `kubeconfig` and `state_dir` are what the installer recorded; the configuration's own keys go before them.
    """
    stdout = _stdout_for_the_answer_alone()
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    signal.signal(signal.SIGTERM, _stopped)
    status, answer = _answered(os.environ, stdin, kubeconfig, state_dir)
    if answer is not None:
        with os.fdopen(stdout, "w") as out:
            json.dump(answer, out)
            out.write("\n")
    return status


def _answered(
    environ: Mapping[str, str], stdin: bytes, kubeconfig: str | None, state_dir: str | None
) -> tuple[int, dict[str, Any] | None]:
    try:
        return 0, _serve(environ, stdin, kubeconfig, state_dir)
    except RatchetError as error:
        log.error("%s%s", error, f" ({error.details})" if error.details else "")
        return 1, error_json(error, answer_version(stdin))
    except Exception as fault:  # a traceback on stdout or none at all would cost the runtime the reason
        log.exception("a fault in ratchet")
        bug = RatchetError(f"cannot serve the call: {type(fault).__name__}: {fault}", details="this is a bug")
        return 1, error_json(bug, answer_version(stdin))


def _serve(
    environ: Mapping[str, str], stdin: bytes, kubeconfig: str | None, state_dir: str | None
) -> dict[str, Any] | None:
    arguments = read_arguments(environ)
    if arguments.command is Command.VERSION:
        return version_json(asked_version(stdin))
    network = read_config(stdin, arguments.command)
    configure(network, arguments)
    _speak_of_keys(network)
    return _serve_call(arguments, network, network.kubeconfig or kubeconfig, network.state_dir or state_dir)


def _serve_call(
    arguments: Arguments, network: NetworkConfig, kubeconfig: str | None, state_dir: str | None
) -> dict[str, Any] | None:
    # Imported here because they are most of a start's cost, and VERSION needs none of them.
    from ratchet.node.call import Call
    from ratchet.node.journal import Journal, process_began
    from ratchet.node.verbs import serve
    from ratchet.store.apiserver import connect
    from ratchet.store.records import Records

    def records(patience: float) -> Records:
        api = connect(_kubeconfig(kubeconfig), patience=patience)
        return Records(api, network.namespace, network.vni_range)

    call = Call(
        arguments,
        network,
        Journal(state_dir or DEFAULT_STATE_DIR),
        records,
        began=process_began(),
        wait=WAIT_SECONDS if network.wait is None else network.wait,
    )
    log.info("called")
    answer = serve(call)
    log.info("done")
    return answer


def _kubeconfig(named: str | None) -> str | None:
    """The kubeconfig to use; None for the credentials that a pod of the cluster has."""
    return named or (KUBECONFIG if Path(KUBECONFIG).is_file() else None)


def _speak_of_keys(network: NetworkConfig) -> None:
    if network.ignored:
        log.info("ignored keys of 2017, which mean nothing any more: %s", ", ".join(network.ignored))
    if network.unknown:
        log.warning("unknown keys in the network configuration: %s", ", ".join(network.unknown))


def _stdout_for_the_answer_alone() -> int:
    """A descriptor for the answer; whatever else is printed from now on, by anyone, goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    return answer


def _stopped(number: int, _frame: FrameType | None) -> NoReturn:
    raise TryAgainError(f"cannot finish: the plugin was sent {signal.Signals(number).name}")
