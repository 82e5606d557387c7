"""Faults at the API, as seen by one node: a middleware of the embedded server that acts on chosen requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware

from ratchet.dev.api.watch import HOLD

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request], Awaitable[web.Response | None]]

POLL_SECONDS = 0.01
GATE_SECONDS = 60.0


@dataclass(eq=False)
class Sent:
    """A request: the address of its sender, method, path, and the status of its response (0: none yet)."""

    remote: str
    method: str
    path: str
    status: int = 0

    @property
    def writes(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE")

    @property
    def watches(self) -> bool:
        return "watch=1" in self.path


@dataclass
class Rule:
    """A fault for matching requests, from the `first` one (counted from 1), `times` times.

    `before` acts before the server gets the request, `after` before the client gets the response. Each may return a
    response that replaces the server's.
    """

    matches: Callable[[Sent], bool]
    before: Act | None = None
    after: Act | None = None
    first: int = 1
    times: int = 1
    seen: int = 0

    def takes(self, sent: Sent) -> bool:
        if not self.matches(sent):
            return False
        self.seen += 1
        return self.first <= self.seen < self.first + self.times

    @property
    def taken(self) -> int:
        """The number of requests that the rule has changed."""
        return max(0, min(self.seen - self.first + 1, self.times))


@dataclass
class Faults:
    """The current rules, and all requests so far.

    Watches of the addresses in `frozen` stall, and deliver their events after the address is removed from it. Watches
    of the addresses in `cut` end at their next event. `passing`: how many events of records frozen watches still get.
    """

    rules: list[Rule] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    passing: int = 0

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def act(request: web.Request, handler: Handler) -> web.StreamResponse:
            sent = Sent(request.remote or "", request.method, request.path_qs)
            self.sent.append(sent)
            if sent.watches:
                HOLD.set(partial(self._hold, sent))
            response = await self._answer(sent, request, handler)
            sent.status = response.status
            return response

        return act

    async def _answer(self, sent: Sent, request: web.Request, handler: Handler) -> web.StreamResponse:
        rule = next((rule for rule in self.rules if rule.takes(sent)), None)
        if rule is None:
            return await handler(request)
        if rule.before and (answer := await rule.before(request)) is not None:
            return answer
        response = await handler(request)
        if rule.after and (answer := await rule.after(request)) is not None:
            return answer
        return response

    async def _hold(self, sent: Sent) -> None:
        if sent.remote in self.cut:
            raise ConnectionResetError
        while sent.remote in self.frozen:
            if self.passing and "/configmaps" in sent.path:
                self.passing -= 1
                return
            await asyncio.sleep(POLL_SECONDS)

    def add(self, rule: Rule) -> Rule:
        self.rules.append(rule)
        return rule

    def of(self, address: str) -> list[Sent]:
        """The requests from an address."""
        return [sent for sent in self.sent if sent.remote == address]

    def clear(self) -> None:
        self.rules.clear()
        self.sent.clear()
        self.frozen.clear()
        self.cut.clear()
        self.passing = 0


def answering(status: int, reason: str, message: str = "", **headers: str) -> Act:
    """An act that responds with an error Status of the API."""

    async def answer(_: web.Request) -> web.Response:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": status}
        text = message or f"made to fail: {reason}"
        return web.json_response({**body, "message": text}, status=status, headers=headers)

    return answer


def calling(act: Callable[[], object]) -> Act:
    """An act that calls a function and does not change the request."""

    async def done(_: web.Request) -> None:
        await asyncio.get_running_loop().run_in_executor(None, act)

    return done


def delaying(seconds: float) -> Act:
    """An act that delays the request."""

    async def slow(_: web.Request) -> None:
        await asyncio.sleep(seconds)

    return slow


async def dropping(request: web.Request) -> web.Response:
    """An act that breaks the connection, so that the client gets no response."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@dataclass
class Gate:
    """An act that holds requests until `opened` is set. `reached` is set once it holds one."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, _: web.Request) -> None:
        self.reached.set()
        until = time.monotonic() + GATE_SECONDS
        while not self.opened.is_set() and time.monotonic() < until:  # no thread waits, so any number of requests may
            await asyncio.sleep(POLL_SECONDS)
