"""Serve a call in a process of its own, without an agent. VERSION is served by `node/plugin`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ratchet.cni.answer import encode
from ratchet.cni.arguments import Arguments, read_arguments
from ratchet.cni.command import Command
from ratchet.cni.config import NetworkConfig, read_config
from ratchet.cni.plugin_keys import DEFAULT_STATE_DIR, DEFAULT_VXLAN_PORT
from ratchet.core.panel import PANEL_PATH
from ratchet.errors import DatapathError, GuardError, RatchetError, TryAgainError
from ratchet.node.interrupts import InterruptedCallError, SignalInterrupts
from ratchet.node.logs import configure
from ratchet.node.response import Response, failure, log_keys

if TYPE_CHECKING:
    from ratchet.core.tunnel_guard import GuardedTunnel
    from ratchet.node.call import Call
    from ratchet.node.journal import Journal
    from ratchet.store.store import ApiStore

log = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
KUBECONFIG = "/etc/cni/net.d/ratchet.d/kubeconfig"
# The path of the patch panel, for tests: several nodes on one machine.
PANEL_VARIABLE = "RATCHET_PANEL"


def serve(stdin: bytes, stdout: BinaryIO, kubeconfig: str | None, state_dir: str | None) -> int:
    """Serve the call that the environment and stdin describe, and return the exit status.

    Writes the result to `stdout` and closes it.
    """
    interrupts = SignalInterrupts()
    with interrupts.deferred():  # the answer is written in any case
        interrupts.install()
        status, result = _response(stdin, kubeconfig, state_dir, interrupts)
        with stdout:
            stdout.write(encode(result))
    logging.shutdown()
    return status


def _response(stdin: bytes, kubeconfig: str | None, state_dir: str | None, interrupts: SignalInterrupts) -> Response:
    try:
        with interrupts.allowed():
            arguments = read_arguments(os.environ)
            network = read_config(stdin, arguments.command)
            return 0, _serve(arguments, network, kubeconfig, state_dir, interrupts)
    except InterruptedCallError as error:
        return failure(TryAgainError(str(error)), stdin)
    except Exception as error:  # noqa: BLE001  # logged, and returned to the runtime
        return failure(error, stdin)


def _serve(
    arguments: Arguments,
    network: NetworkConfig,
    kubeconfig: str | None,
    state_dir: str | None,
    interrupts: SignalInterrupts,
) -> dict[str, Any] | None:
    configure(network, arguments)
    log_keys(network)
    # Imported here because these imports take most of the start-up time, and an invalid call needs none of them.
    from ratchet.node.dispatch import dispatch

    if network.wait_policy == "proceed":
        log.warning('"wait_policy": "proceed" has no effect: without an agent, nothing can complete a link later')
    call = _call(arguments, network, interrupts, kubeconfig, state_dir)
    _restore_guard_from(call.journal)
    log.info("%s received", arguments.command)
    try:
        result = dispatch(call)
    finally:
        with interrupts.deferred():
            call.journal.flush()
    if network.guard is not False:
        _report_guard(arguments)
    if arguments.command is Command.STATUS:
        _report_port(network.vxlan_port or DEFAULT_VXLAN_PORT, call.journal)
        _report_panel(call.journal.panel)
    log.info("%s succeeded", arguments.command)
    return result


def _call(
    arguments: Arguments,
    network: NetworkConfig,
    interrupts: SignalInterrupts,
    kubeconfig: str | None,
    state_dir: str | None,
) -> Call:
    """The call, with this node's journal and a connection to the API that is made once it is needed."""
    from ratchet.node.call import Call
    from ratchet.node.journal import Journal
    from ratchet.node.process import process_began
    from ratchet.node.underlay import find_underlay

    folder = network.state_dir or state_dir or DEFAULT_STATE_DIR
    panel = os.environ.get(PANEL_VARIABLE, PANEL_PATH)  # as the shim has it; empty: the node has no panel
    journal = Journal(folder, panel=panel, prepare_panel=partial(_prepare_panel, folder, panel))
    return Call(
        arguments,
        network,
        journal,
        partial(_store, network, kubeconfig),
        began=process_began(),
        wait=WAIT_SECONDS if network.wait is None else network.wait,
        interrupts=interrupts,
        find_underlay=partial(find_underlay, ports=network.vxlan_ports),
    )


def _prepare_panel(folder: str, path: str) -> None:
    """Make the patch panel if it is missing, else remove what others have left in it. Raises DatapathError."""
    from ratchet.datapath.panel.namespace import ensure_panel
    from ratchet.node.panel_sweep import sweep_panel

    if not path:
        raise DatapathError(
            f"cannot make the patch panel: {PANEL_VARIABLE} is empty", details=f"unset {PANEL_VARIABLE}"
        )
    ensure_panel(folder, path).close()
    sweep_panel(path)


def _store(network: NetworkConfig, kubeconfig: str | None, patience: float) -> ApiStore:
    """The API, whose requests are retried for `patience` seconds."""
    from ratchet.store.apiserver import connect
    from ratchet.store.store import ApiStore
    from ratchet.store.vni import VniAllocator

    return ApiStore(
        connect(_kubeconfig(network.kubeconfig or kubeconfig), patience=patience),
        network.namespace,
        network.vni_range,
        VniAllocator(),
        use_topologies=network.topologies,
        limits=network.limits,
        topology_limits=network.topology_limits,
        annotation_limits=network.annotation_limits,
        default_wiring=network.wiring,
    )


def _restore_guard_from(journal: Journal) -> None:
    """Have a guard that is missing made again with all tunnels of the node. Nothing is read otherwise."""
    from ratchet.datapath.guard_state import restore_from

    def find() -> Iterable[GuardedTunnel]:
        from ratchet.node.held_tunnels import held_tunnels, is_guarded  # nearly no call needs them

        return held_tunnels(journal, is_guarded)

    restore_from(find)


def _report_guard(arguments: Arguments) -> None:
    """Log if this node cannot guard its tunnel port. STATUS asks the kernel; other calls know if they had to.

    STATUS also restores a guard that is missing, because runtimes call it between pod starts.
    """
    from ratchet.datapath.guard_state import refusal

    cause = refusal()
    if arguments.command is Command.STATUS:
        from ratchet.datapath import tunnel_guard  # with the messages of pyroute2, which few calls need

        try:
            if tunnel_guard.restore():
                log.warning("tunnel guard was missing, made again with the node's tunnels")
        except GuardError as error:
            cause = str(error)
    if cause:
        log.warning('tunnel port not guarded, links work without it cause="%s"', cause)


def _report_port(port: int, journal: Journal) -> None:
    """Log if something else has the UDP port of the tunnels. Pods start without them, so STATUS succeeds."""
    from ratchet.node.tunnel_port import port_fault

    try:
        fault = port_fault(port, journal)
    except DatapathError as error:
        log.warning('tunnel port not checked port=%d cause="%s"', port, error)
        return
    if fault:
        log.warning('tunnel port taken, links between nodes fail cause="%s" details="set another vxlan_port"', fault)


def _report_panel(panel: str) -> None:
    """Log if something else has the path of the patch panel. Pods start without it, so STATUS succeeds."""
    from ratchet.datapath.panel.namespace import hold_panel

    try:
        if panel:
            hold_panel(panel)
    except RatchetError as error:
        log.warning('patch panel unusable cause="%s" details="%s"', error, error.details)


def _kubeconfig(named: str | None) -> str | None:
    """The kubeconfig to use; None for in-cluster credentials."""
    return named or (KUBECONFIG if Path(KUBECONFIG).is_file() else None)
