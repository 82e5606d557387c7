"""A relay from the host's loopback to the API, in the control plane's network.

Run as `python -m ratchet.dev.cluster.relay DESCRIPTOR HOST PORT`.
"""

from __future__ import annotations

import signal
import socket
import sys

from ratchet.dev.relay import relay


def main() -> None:
    descriptor, host, port = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as listener, relay(listener, host, int(port)):
        signal.pause()


if __name__ == "__main__":
    main()
