"""The embedded API as a process: on loopback and on a socket that it is given, until its stdin ends.

Arguments: the socket's descriptor, and where to write the kubeconfigs of the machine's side and of the socket's.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.dev.api.server import EmbeddedApi, Endpoint  # noqa: E402


def main() -> None:
    descriptor, kubeconfig, other_kubeconfig = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as listener, EmbeddedApi(also=(listener,)) as api:
        host, port = listener.getsockname()[:2]
        Endpoint(f"http://{host}:{port}").write_kubeconfig(other_kubeconfig)
        api.write_kubeconfig(kubeconfig)
        print("serving", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
