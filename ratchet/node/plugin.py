"""The daemonless plugin: one process for each call of the runtime."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ratchet.cni.arguments import Arguments
from ratchet.cni.config import DEFAULT_STATE_DIR, NetworkConfig
from ratchet.errors import TryAgainError
from ratchet.node.logs import configure
from ratchet.node.response import log_keys, respond

log = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
KUBECONFIG = "/etc/cni/net.d/ratchet.d/kubeconfig"


def run(kubeconfig: str | None = None, state_dir: str | None = None) -> NoReturn:
    """Serve the call and end the process with os._exit.

    A regular exit unloads some 800 modules one by one. That takes a fifth of a call's time and serves no purpose.
    """
    status = main(kubeconfig, state_dir)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def main(kubeconfig: str | None = None, state_dir: str | None = None) -> int:
    """Serve the call that the environment and stdin describe, and return the exit status.

    `kubeconfig` and `state_dir` are the values that the installer recorded; keys of the configuration override them.
    """
    stdout = _stdout_for_the_answer_alone()
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    signal.signal(signal.SIGTERM, _stopped)
    status, result = respond(os.environ, stdin, partial(_serve, kubeconfig, state_dir))
    if result is not None:
        with os.fdopen(stdout, "w") as out:
            json.dump(result, out)
            out.write("\n")
    return status


def _serve(
    kubeconfig: str | None, state_dir: str | None, arguments: Arguments, network: NetworkConfig
) -> dict[str, Any] | None:
    configure(network, arguments)
    log_keys(network)
    # Imported here because these imports take most of the start-up time, and VERSION needs none of them.
    from ratchet.node.call import Call
    from ratchet.node.dispatch import dispatch
    from ratchet.node.journal import Journal
    from ratchet.node.process import process_began
    from ratchet.store.apiserver import connect
    from ratchet.store.store import ApiStore
    from ratchet.store.vni import VniAllocator

    def records(patience: float) -> ApiStore:
        api = connect(_kubeconfig(network.kubeconfig or kubeconfig), patience=patience)
        return ApiStore(api, network.namespace, network.vni_range, VniAllocator(), use_topologies=network.topologies)

    if network.wait_policy == "proceed":
        log.warning('"wait_policy": "proceed" is of no effect: nobody stays who could complete a link later')
    call = Call(
        arguments,
        network,
        Journal(network.state_dir or state_dir or DEFAULT_STATE_DIR),
        records,
        began=process_began(),
        wait=WAIT_SECONDS if network.wait is None else network.wait,
    )
    log.info("called")
    result = dispatch(call)
    log.info("done")
    return result


def _kubeconfig(named: str | None) -> str | None:
    """The kubeconfig to use; None for in-cluster credentials."""
    return named or (KUBECONFIG if Path(KUBECONFIG).is_file() else None)


def _stdout_for_the_answer_alone() -> int:
    """Reserve stdout for the result and return its descriptor. All other output now goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    return answer


def _stopped(number: int, _frame: FrameType | None) -> NoReturn:
    raise TryAgainError(f"cannot finish: the plugin was sent {signal.Signals(number).name}")
