"""A process that has the UDP port of a node's tunnels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import command_in

_CODE = "import socket; s = socket.socket(2, 2); s.bind(('', 4789)); print(flush=True); input()"


@contextmanager
def port_taken(node: Kubelet) -> Iterator[None]:
    """Have a process of a node take the port for a block."""
    command = command_in(node.host.netns, sys.executable, "-c", _CODE)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            yield
        finally:
            holder.communicate("\n")
