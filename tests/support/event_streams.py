"""The open watches of the embedded API server, which a test can break."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Middleware

from tests.support.faults import Handler


@dataclass
class EventStreams:
    """The open watches by the address of their client, so that a step can break them."""

    _open: dict[str, set[asyncio.Transport]] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            if "watch" not in request.query or transport is None:
                return await handler(request)
            self._loop = asyncio.get_running_loop()
            transports = self._open.setdefault(request.remote or "", set())
            transports.add(transport)
            try:
                return await handler(request)
            finally:
                transports.discard(transport)

        return track

    def cut(self, address: str) -> None:
        """Abort the connections of all watches of the node with this address."""

        def abort() -> None:
            for transport in list(self._open.get(address, ())):
                transport.abort()

        if self._loop is not None:
            self._loop.call_soon_threadsafe(abort)
