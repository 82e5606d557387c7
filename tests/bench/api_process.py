"""The embedded API server as a process. It serves on loopback and on a given socket until its stdin ends.

Arguments: the socket's descriptor, and the kubeconfigs to write: for clients on loopback, and for those of the socket.
A line on stdin sets the delay of responses in seconds, as in a slow network.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

# A script finds only modules of its own directory.
sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from ratchet.dev.api.server import ApiAddress, EmbeddedApi  # noqa: E402


class Delay:
    """Delays responses, except those to watches."""

    def __init__(self) -> None:
        self.seconds = 0.0

        @web.middleware
        async def delayed(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if self.seconds and "watch" not in request.query:
                await asyncio.sleep(self.seconds)
            return await handler(request)

        self.middleware = delayed


def main() -> None:
    descriptor, kubeconfig, other_kubeconfig = sys.argv[1:]
    delay = Delay()
    with (
        socket.socket(fileno=int(descriptor)) as listener,
        EmbeddedApi(also=(listener,), middlewares=(delay.middleware,)) as api,
    ):
        host, port = listener.getsockname()[:2]
        ApiAddress(f"http://{host}:{port}").write_kubeconfig(other_kubeconfig)
        api.write_kubeconfig(kubeconfig)
        print("serving", flush=True)
        for line in sys.stdin:
            delay.seconds = float(line)
            print("delayed", flush=True)


if __name__ == "__main__":
    main()
