"""The time budget of a call: how long the runtime, the shim, the agent and a delegate may take.

Each of them answers before the one that waits for it gives up. All limits are seconds since the start of the process
that the runtime executes: the shim, or the daemonless plugin.
"""

from __future__ import annotations

from ratchet.cni.command import Command

# The kubelet's limits: twice `runtimeRequestTimeout` (2 min) for RunPodSandbox, once for StopPodSandbox. containerd
# kills the plugin then.
RUNTIME_SECONDS = {Command.ADD: 240.0, Command.DEL: 120.0}
# The shim waits that long for the agent. Besides ADD, the runtime has other work within its own limit.
SHIM_SECONDS = {
    Command.ADD: 200.0,
    Command.DEL: 90.0,
    Command.CHECK: 30.0,
    Command.GC: 90.0,
    Command.STATUS: 10.0,
    Command.VERSION: 2.0,
}
# The agent has answered by then.
AGENT_SECONDS = {
    Command.ADD: 195.0,
    Command.DEL: 85.0,
    Command.CHECK: 28.0,
    Command.GC: 85.0,
    Command.STATUS: 9.0,
    Command.VERSION: 1.0,
}
# ADD sets up until then. The rest of its time is for undoing a failed ADD.
SET_UP_SECONDS = 150.0
# What the set-up needs after the delegate, to join the links.
JOIN_SECONDS = 15.0
# The most that a delegate gets, and the least: a DEL that does not run leaks an address.
DELEGATE_SECONDS = {
    Command.ADD: 110.0,
    Command.DEL: 50.0,
    Command.CHECK: 30.0,
    Command.GC: 30.0,
    Command.STATUS: 5.0,
}
DELEGATE_LEAST_SECONDS = 2.0


def wait_seconds(wanted: float, elapsed: float) -> float:
    """How long ADD may go on to wait for its peers if `wanted` more seconds are asked for, after `elapsed` seconds."""
    return max(0.0, min(wanted, SET_UP_SECONDS - elapsed))


def delegate_seconds(call: Command, verb: Command, elapsed: float) -> float:
    """How long a delegate's `verb` may take in a call of the runtime, after `elapsed` seconds of that call.

    The verb differs from the call's where a failed ADD is undone by a DEL, and GC deletes attachments.
    """
    end = SET_UP_SECONDS - JOIN_SECONDS if verb is Command.ADD else AGENT_SECONDS[call]
    return max(DELEGATE_LEAST_SECONDS, min(DELEGATE_SECONDS[verb], end - elapsed))
