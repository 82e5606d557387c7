"""A TCP relay from a socket of one network namespace to an address of another."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK_BYTES = 1 << 16


@contextmanager
def relay(listener: socket.socket, host: str, port: int) -> Iterator[None]:
    """Relay each connection to `host` and `port`, in a thread of this namespace.

    A connection that the target refuses is closed.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()

    async def relay_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Python 3.11 logs a traceback for each connection that is cancelled at the end.
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(_copy(reader, upstream_writer), _copy(upstream_reader, writer))

    serving = asyncio.start_server(relay_one, sock=listener)
    server = asyncio.run_coroutine_threadsafe(serving, loop).result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
