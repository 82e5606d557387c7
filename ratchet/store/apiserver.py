"""Requests to the Kubernetes API: bounded, retried where that is safe, with errors that say what to do.

The only module that imports `kubernetes`. It speaks plain JSON objects: the typed models would cost every pod start
about half a second of imports.

Not guaranteed: that a write whose reply was lost was not applied. Whoever writes reads again after a conflict.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import tenacity
import urllib3
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config

from ratchet.errors import ApiUnavailableError, ConflictError, InvalidConfigError, RatchetError
from ratchet.retry import call_with_retries

Json = dict[str, Any]
Decoded = TypeVar("Decoded")
Listing = tuple[list[Decoded], str]
Observer = Callable[[str, str, int, float], None]

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
DEFAULT_NAMESPACE = "default"
WATCH_SECONDS = 120
CONNECTIONS = 64
CREDENTIALS_SECONDS = 1.0
# A watch over a connection that has gone dark hears nothing and would not know it: the kernel gives it up after 25 s
# (tcp(7)). urllib3 sets these in the place of its own.
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
PAGE = 500
JSON = "application/json"
# What follows the comma is for a server that does not know the first (kubernetes.io, "Alternate representations").
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

_BUSY = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class NotFoundError(RatchetError):
    """The API has no such object."""


class ForbiddenError(RatchetError):
    """The API refuses: most often our account lacks a permission, and the message names it."""


class AlreadyExistsError(ConflictError):
    """An object of that name was created before ours."""


class ExpiredError(ConflictError):
    """The resourceVersion that a watch was to start from is no longer known: list again."""


class UnauthorizedError(ApiUnavailableError):
    """The API does not know our credentials: they may have been renewed since we read them."""


class _Session:
    """The client with its connections, shared by those who differ in patience, and the watches that are open."""

    _credentials: tuple[float, dict[str, str]]

    def __init__(self, client: Any) -> None:
        self.watches: set[Any] = set()
        self.renew(client)

    def credentials(self) -> dict[str, str]:
        """The headers with our credentials. The client looks through its whole configuration for them each time."""
        read, headers = self._credentials
        if time.monotonic() - read > CREDENTIALS_SECONDS:
            headers = {}
            self.client.update_params_for_auth(headers, [], ["BearerToken"], "", "", None)
            self._credentials = time.monotonic(), headers
        return headers

    def renew(self, client: Any) -> None:
        """Use another client, which has read the credentials again."""
        self.client = client
        self._credentials = (float("-inf"), {})
        configuration, manager = client.configuration, client.rest_client.pool_manager
        # The pool is used directly, because the layers above it take a third of the CPU of a request. With a proxy the
        # manager decides between a tunnel and a request with the whole URL.
        self._connections = manager if configuration.proxy else manager.connection_from_url(configuration.host)
        self._base = configuration.host if configuration.proxy else urlsplit(configuration.host).path.rstrip("/")

    def send(
        self, method: str, target: str, headers: dict[str, str], body: Json | None, timeout: urllib3.Timeout
    ) -> urllib3.BaseHTTPResponse:
        """The response to a request, with its body unread. `target` is a path and a query."""
        response: urllib3.BaseHTTPResponse = self._connections.urlopen(
            method,
            self._base + target,
            body=None if body is None else json.dumps(body),
            headers=headers | self.credentials(),
            timeout=timeout,
            retries=False,
            redirect=False,
            preload_content=False,
        )
        return response

    def close(self) -> None:
        self.client.rest_client.close()
        if isinstance(self._connections, urllib3.HTTPConnectionPool):
            self._connections.close()


@dataclass(slots=True)
class _RequestStatus:
    """What has come of a request so far; 0 is no answer."""

    status: int = 0


@dataclass(frozen=True, slots=True)
class Watched:
    """One event of a watch: `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Json


class ApiServer:
    """One API server, reached with one set of credentials; safe to share between threads.

    `patience` is how many seconds a request may go on being retried; each single try has its own shorter limit, since
    the client has none by default. `observer` is called when a request is over, a watch when its headers have come,
    with its method, its path, the status of the answer (0 where none came, or not all of it) and how many seconds it
    took; each retry is a request.
    """

    def __init__(
        self,
        configure: Callable[[], Any],
        *,
        patience: float = 15.0,
        observer: Observer | None = None,
    ) -> None:
        self._configure = configure
        self._session = _Session(kubernetes_client.ApiClient(configure()))
        self.host = str(self._client.configuration.host)  # which it makes up anew each time that it is asked
        self.patience = patience
        self._observer = observer

    def patient(self, seconds: float) -> ApiServer:
        """The same server over the same connections, where each request may go on being retried for `seconds`."""
        other = copy(self)
        other.patience = seconds
        return other

    def close(self) -> None:
        self._session.close()

    def reconnect(self) -> None:
        """Go on over new connections: those from an address that the node no longer has lead nowhere, unnoticed."""
        self._renew()
        for response in list(self._session.watches):
            with suppress(ValueError, RuntimeError, OSError):  # it has ended just now
                response.shutdown()

    def _renew(self) -> None:
        self._session.renew(kubernetes_client.ApiClient(self._configure()))

    def get(self, path: str) -> Json:
        """The object at `path`. Raises NotFoundError."""
        return self._retried("GET", path)

    def list(self, path: str, **query: str) -> tuple[list[Json], str]:
        """The objects of a collection as JSON, and the resourceVersion of the list."""
        return self.list_decoded(path, dict, **query)

    def list_decoded(self, path: str, decode: Callable[[Json], Decoded], **query: str) -> Listing[Decoded]:
        """The decoded objects of a collection, and the resourceVersion of the list.

        The collection is read in pages of PAGE objects. Each page is decoded before the next one is read, so at most
        one page of JSON is in memory. Raises ExpiredError if the list expires between two pages.
        """
        return self._listed(path, JSON, decode, query)

    def list_metadata(self, path: str, decode: Callable[[Json], Decoded], **query: str) -> Sequence[Decoded]:
        """The decoded metadata of the objects of a collection, page by page. A server may send more than that."""
        return self._listed(path, METADATA_LIST, decode, query)[0]

    def has_any(self, path: str, **query: str) -> bool:
        """Whether a collection has an object. Reads one object at most."""
        return bool(self._retried("GET", path, query={**query, "limit": "1"}).get("items"))

    def _listed(
        self, path: str, accept: str, decode: Callable[[Json], Decoded], query: Mapping[str, str]
    ) -> Listing[Decoded]:
        objects: list[Decoded] = []
        token: dict[str, str] = {}
        while True:
            page = self._retried("GET", path, query={**query, "limit": str(PAGE), **token}, accept=accept)
            objects += map(decode, page.get("items") or ())
            metadata = page.get("metadata") or {}
            del page  # or it is in memory together with the next one
            if not metadata.get("continue"):
                return objects, metadata.get("resourceVersion", "")
            token = {"continue": metadata["continue"]}

    def create(self, path: str, body: Json) -> Json:
        """Create an object. Raises AlreadyExistsError, also where an earlier try of ours was applied unheard."""
        return self._retried("POST", path, body=body)

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        """Merge `body` into an object, on condition of a resourceVersion in it. Raises ConflictError, NotFoundError.

        `content_type` says how it is merged: MERGE_PATCH (RFC 7386), or STRATEGIC_MERGE_PATCH, for which lists are
        merged by their keys.
        """
        return self._retried("PATCH", path, body=body, content_type=content_type)

    def delete(self, path: str, *, uid: str, resource_version: str = "", grace_seconds: int | None = None) -> None:
        """Delete the very object that has this UID (and version). Raises ConflictError, NotFoundError."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        self._retried("DELETE", path, body=body)

    def watch(self, path: str, resource_version: str, seconds: float, **query: str) -> Iterator[Watched]:
        """What changes in a collection after `resource_version`, for at most `seconds`.

        Ends early when the server closes the stream. Raises ExpiredError when the version is too old.
        """
        limit = max(1, int(min(WATCH_SECONDS, seconds) + 0.999))
        parameters = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(limit)}
        parameters |= {"resourceVersion": resource_version, **query}
        with self._observed("GET", path) as answer:
            response = self._send("GET", path, answer, query=parameters, read_seconds=min(seconds, limit) + 0.1)
        try:
            with closing(response) as stream, self._open(stream):
                for line in _lines(stream, time.monotonic() + seconds):
                    yield _event(path, json.loads(line))
        except urllib3.exceptions.HTTPError:
            return  # a stream that breaks is a stream that ended: the caller lists or watches again

    @contextmanager
    def _open(self, stream: Any) -> Iterator[None]:
        self._session.watches.add(stream)
        try:
            yield
        finally:
            self._session.watches.discard(stream)

    def _retried(self, method: str, path: str, **request: Any) -> Json:
        until = time.monotonic() + self.patience
        return call_with_retries(lambda: self._once(method, path, until, request), ApiUnavailableError, self._retries)

    def _retries(self, elapsed: float) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ApiUnavailableError),
            stop=tenacity.stop_before_delay(self.patience - elapsed),
            wait=_pause,
            before_sleep=self._renew_credentials,
            reraise=True,
        )

    def _once(self, method: str, path: str, until: float, request: Mapping[str, Any]) -> Json:
        left = max(0.1, until - time.monotonic())
        with self._observed(method, path) as answer:
            response = self._send(method, path, answer, read_seconds=min(READ_SECONDS, left), **request)
            try:
                return dict(json.loads(response.data))
            except (urllib3.exceptions.HTTPError, ValueError) as cause:
                answer.status = 0
                raise ApiUnavailableError(f"cannot {method} {path}: the answer broke off: {cause}") from cause

    def _send(
        self,
        method: str,
        path: str,
        answer: _RequestStatus,
        *,
        read_seconds: float,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "ratchet"}
        target = path + ("?" + urlencode(query) if query else "")
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, read_seconds), read=read_seconds)
        try:
            response = self._session.send(method, target, headers, body, timeout)
            answer.status = response.status
            if response.status < HTTPStatus.BAD_REQUEST:
                return response
            raise _refusal(method, path, response.status, response.data, response.headers)
        except (urllib3.exceptions.HTTPError, OSError) as cause:
            answer.status = 0
            raise ApiUnavailableError(
                f"cannot reach the Kubernetes API at {self.host}: {_brief(cause)}",
                details="check that the API server runs and that the kubeconfig names it",
            ) from cause

    @property
    def _client(self) -> Any:
        return self._session.client

    @contextmanager
    def _observed(self, method: str, path: str) -> Iterator[_RequestStatus]:
        """Have the observer hear of what is sent within; whoever sends it notes the answer's status."""
        answer, began = _RequestStatus(), time.monotonic()
        try:
            yield answer
        finally:
            if self._observer:
                self._observer(method, path, answer.status, time.monotonic() - began)

    def _renew_credentials(self, state: tenacity.RetryCallState) -> None:
        if state.outcome is not None and isinstance(state.outcome.exception(), UnauthorizedError):
            self._renew()


def config_maps_path(namespace: str) -> str:
    """The path of a namespace's ConfigMaps."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


def leases_path(namespace: str) -> str:
    """The path of a namespace's Leases."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def connect(
    kubeconfig: str | None, *, context: str | None = None, patience: float = 15.0, observer: Observer | None = None
) -> ApiServer:
    """The API that a kubeconfig names in a context of it (None: its own choice).

    Where there is no kubeconfig it is the API of the cluster that we are a pod of. Several files may be named, as in
    $KUBECONFIG. Raises InvalidConfigError naming what cannot be used.
    """
    return ApiServer(lambda: _configuration(kubeconfig, context), patience=patience, observer=observer)


def namespace_of(kubeconfig: str | None, context: str | None = None) -> str:
    """The namespace that a kubeconfig's context has people work in. Raises InvalidConfigError."""
    if not kubeconfig:
        return DEFAULT_NAMESPACE
    try:
        contexts, _ = kubernetes_config.list_kube_config_contexts(config_file=kubeconfig)
        meant = context or _current_context(kubeconfig)
    except Exception as cause:  # as below
        raise InvalidConfigError(f"cannot use kubeconfig {kubeconfig}: {_brief(cause)}") from cause
    found: Json = next((one for one in contexts if one.get("name") == meant), {})
    return (found.get("context") or {}).get("namespace") or DEFAULT_NAMESPACE


def _current_context(kubeconfig: str) -> str | None:
    """The current context: of several files the first that has one says it, as kubectl has it and the library not."""
    for one in kubeconfig.split(os.pathsep):
        if Path(one).is_file():
            with suppress(kubernetes_config.ConfigException):
                _, current = kubernetes_config.list_kube_config_contexts(config_file=one)
                return str(current["name"])
    return None


def _configuration(kubeconfig: str | None, context: str | None = None) -> Any:
    configuration = kubernetes_client.Configuration()
    try:
        if kubeconfig:
            if not any(Path(one).is_file() for one in kubeconfig.split(os.pathsep)):
                raise kubernetes_config.ConfigException("no such file")
            kubernetes_config.load_kube_config(
                config_file=kubeconfig,
                context=context or (_current_context(kubeconfig) if os.pathsep in kubeconfig else None),
                client_configuration=configuration,
            )
        else:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
    except Exception as cause:  # whatever the YAML holds, the loader has no error class of its own for it
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster credentials"
        raise InvalidConfigError(
            f"cannot use {where}: {_brief(cause)}",
            details='name a kubeconfig in the key "kubeconfig" of the network configuration, or with ratchet install',
        ) from cause
    configuration.retries = False
    configuration.connection_pool_maxsize = CONNECTIONS
    configuration.socket_options = SOCKET_OPTIONS
    return configuration


def _refusal(method: str, path: str, status: int, data: bytes, headers: Mapping[str, str]) -> RatchetError:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {}
    said = str(answer.get("message") or "") if isinstance(answer, dict) else ""
    reason = answer.get("reason") if isinstance(answer, dict) else None
    message = f"cannot {method} {path}: {said or responses.get(status, f'HTTP status {status}')}"
    if status == HTTPStatus.NOT_FOUND:
        return NotFoundError(message)
    if status == HTTPStatus.CONFLICT:
        return AlreadyExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
    if status == HTTPStatus.GONE:
        return ExpiredError(message)
    if status == HTTPStatus.UNAUTHORIZED:
        return UnauthorizedError(message)
    if status in _BUSY:
        return ApiUnavailableError(message, retry_after=_seconds(headers.get("Retry-After")))
    if status == HTTPStatus.FORBIDDEN:
        return ForbiddenError(message, details="the account lacks a permission: docs/operations.md lists them all")
    return RatchetError(message)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: what the server asked for, else a jittered, doubling pause."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiUnavailableError) and error.retry_after is not None:
        return error.retry_after
    return float(tenacity.wait_random_exponential(multiplier=0.1, max=2.0)(state))


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdigit() else None


def _lines(stream: Any, until: float) -> Iterator[bytes]:
    """The stream's lines; gives up when `until` (monotonic) has passed, which it sees at the next line."""
    buffered = b""
    for chunk in stream.stream(amt=None, decode_content=True):
        *whole, buffered = (buffered + chunk).split(b"\n")
        yield from (line for line in whole if line.strip())
        if time.monotonic() >= until:
            return


def _event(path: str, event: Json) -> Watched:
    if event["type"] != "ERROR":
        return Watched(event["type"], event["object"])
    status = event["object"]
    message = f"cannot watch {path}: {status.get('message')}"
    if status.get("code") == HTTPStatus.GONE:
        raise ExpiredError(message)
    raise ApiUnavailableError(message)


def _brief(cause: BaseException) -> str:
    reason = getattr(cause, "reason", None)
    return str(reason if isinstance(reason, Exception | str) and str(reason) else cause).splitlines()[0][:300]
