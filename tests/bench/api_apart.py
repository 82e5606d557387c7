"""The embedded API as a process: on loopback and on a socket that it is given, until its stdin ends.

Arguments: the socket's descriptor, and where to write the kubeconfigs of the machine's side and of the socket's. A line
on stdin is for how many seconds every answer is held back from then on, as if the API were that far away.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

# The tests are no package; by its path, a script finds only its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.dev.api.server import ApiAddress, EmbeddedApi  # noqa: E402


class Distance:
    """Holds answers back; those of watches come when they come."""

    def __init__(self) -> None:
        self.seconds = 0.0

        @web.middleware
        async def kept(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if self.seconds and "watch" not in request.query:
                await asyncio.sleep(self.seconds)
            return await handler(request)

        self.middleware = kept


def main() -> None:
    descriptor, kubeconfig, other_kubeconfig = sys.argv[1:]
    distance = Distance()
    with (
        socket.socket(fileno=int(descriptor)) as listener,
        EmbeddedApi(also=(listener,), middlewares=(distance.middleware,)) as api,
    ):
        host, port = listener.getsockname()[:2]
        ApiAddress(f"http://{host}:{port}").write_kubeconfig(other_kubeconfig)
        api.write_kubeconfig(kubeconfig)
        print("serving", flush=True)
        for line in sys.stdin:
            distance.seconds = float(line)
            print("so far away", flush=True)


if __name__ == "__main__":
    main()
