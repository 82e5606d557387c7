"""Requests to the Kubernetes API: bounded, retried if that is safe, with errors that name the remedy.

Objects are plain JSON: the typed models of the `kubernetes` package would cost every pod start about half a second of
imports.

A write whose response was lost may have been applied. So a caller reads again after a conflict.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import urllib3

from ratchet.errors import ApiUnavailableError
from ratchet.retry import call_with_retries
from ratchet.store.api_errors import UnauthorizedError, error_of_response, first_line
from ratchet.store.connection import Connection, open_connection
from ratchet.store.http import AnyResponse
from ratchet.store.paging import Page, decode_page, read_body, read_list
from ratchet.store.session import Json, Session, Watched, read_lines

if TYPE_CHECKING:
    import tenacity

Decoded = TypeVar("Decoded")
Listing = tuple[list[Decoded], str]
Observer = Callable[[str, str, int, float], None]

READ_SECONDS = 10.0
WATCH_SECONDS = 120
# kube-apiserver's `--request-timeout`. To find a selector's few among 100,000 objects, it may read etcd for over 10 s.
SELECTION_SECONDS = 60.0
JSON = "application/json"
# The second type is for servers that do not support the first (kubernetes.io, "Alternate representations").
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,{JSON}"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"


@dataclass(slots=True)
class _RequestStatus:
    """The HTTP status of a request; 0 without a complete response."""

    status: int = 0


class ApiServer:
    """One API server and one set of credentials; safe between threads.

    A request is retried for `patience` seconds. Each try has a shorter timeout of its own, because the client has none
    by default. `observer` is called after each try, and for a watch after the response's headers. Its arguments are the
    method, the path, the HTTP status (0 without a complete response), and the duration in seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        patience: float = 15.0,
        observer: Observer | None = None,
    ) -> None:
        self._connect = connect
        self._session = Session(connect())
        self.host = self._session.connection.host
        self.patience = patience
        self._timeout = 0.0
        self._observer = observer

    def patient(self, seconds: float) -> ApiServer:
        """The same server and connections, with requests that are retried for `seconds`."""
        other = copy(self)
        other.patience = seconds
        return other

    def with_timeout(self, seconds: float) -> ApiServer:
        """The same server and connections. Each try may take `seconds`, also if that is more than the patience."""
        other = copy(self)
        other._timeout = seconds
        return other

    def close(self) -> None:
        self._session.close()

    def reconnect(self) -> None:
        """Use new connections. Those from an address that the node no longer has would time out only later."""
        self._renew()
        self._session.end_watches()

    def _renew(self) -> None:
        self._session.renew(self._connect())

    def get(self, path: str) -> Json:
        """The object at `path`. Raises NotFoundError."""
        return self._request("GET", path)

    def list(self, path: str, **query: str) -> tuple[list[Json], str]:
        """The objects of a collection as JSON, and the resourceVersion of the list."""
        return self.list_decoded(path, dict, **query)

    def list_decoded(self, path: str, decode: Callable[[Json], Decoded], **query: str) -> Listing[Decoded]:
        """The decoded objects of a collection, and the resourceVersion of the list.

        The collection is read in pages of about PAGE_BYTES (`paging`). Each page is decoded before the next one is
        read, so at most one page of JSON is in memory. Raises ExpiredError if the list expires between two pages.
        """
        return self._listed(path, JSON, decode, query)

    def list_metadata(self, path: str, decode: Callable[[Json], Decoded], **query: str) -> Sequence[Decoded]:
        """The decoded metadata of the objects of a collection, page by page. A server may send whole objects."""
        return self._listed(path, METADATA_LIST, decode, query)[0]

    def has_any(self, path: str, **query: str) -> bool:
        """Whether a collection has an object. Reads one object at most."""
        return bool(self._request("GET", path, query={**query, "limit": "1"}).get("items"))

    def _listed(
        self, path: str, accept: str, decode: Callable[[Json], Decoded], query: Mapping[str, str]
    ) -> Listing[Decoded]:
        def read_page(page_query: Mapping[str, str], largest: int | None) -> Page[Decoded]:
            page = partial(decode_page, decode)
            return self._retried("GET", path, page, largest, query={**query, **page_query}, accept=accept)

        return read_list(read_page)

    def create(self, path: str, body: Json) -> Json:
        """Create an object. Raises AlreadyExistsError, also if the response to an earlier try was lost."""
        return self._request("POST", path, body=body)

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        """Patch an object, on condition of the resourceVersion in `body`. Raises ConflictError, NotFoundError.

        `content_type` is MERGE_PATCH (RFC 7386), or STRATEGIC_MERGE_PATCH, which merges lists by their keys.
        """
        return self._request("PATCH", path, body=body, content_type=content_type)

    def delete(self, path: str, *, uid: str, resource_version: str = "", grace_seconds: int | None = None) -> None:
        """Delete an object, on condition of its UID and version. Raises ConflictError, NotFoundError."""
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": preconditions}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        self._request("DELETE", path, body=body)

    def watch(self, path: str, resource_version: str, seconds: float, **query: str) -> Iterator[Watched]:
        """The events of a collection after `resource_version`, for at most `seconds`, as by `watch_decoded`."""
        return self.watch_decoded(path, resource_version, seconds, lambda event: event, **query)

    def watch_decoded(
        self, path: str, resource_version: str, seconds: float, decode: Callable[[Watched], Decoded], **query: str
    ) -> Iterator[Decoded]:
        """The decoded events of a collection after `resource_version`, for at most `seconds`.

        No JSON is in memory while the next event is waited for. Ends early if the server closes the stream. Raises
        ExpiredError if the version is too old.
        """
        limit = max(1, int(min(WATCH_SECONDS, seconds) + 0.999))
        parameters = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(limit)}
        parameters |= {"resourceVersion": resource_version, **query}
        with self._observed("GET", path) as answer:
            response = self._send(
                "GET", path, answer, query=parameters, read_seconds=min(seconds, limit) + 0.1, is_stream=True
            )
        try:
            with closing(response) as stream, self._session.watching(stream):
                decode_line = self._session.event_decoder(path, decode)
                # `map` and `read_lines` keep no reference to a line or an event.
                yield from map(decode_line, read_lines(stream, time.monotonic() + seconds))
        except urllib3.exceptions.HTTPError:
            return  # a broken stream is like one that has ended: the caller lists or watches again

    def _request(self, method: str, path: str, **request: Any) -> Json:
        """The object in the response to a request, which is retried."""
        return self._retried(method, path, lambda content, _: content, **request)

    def _retried(
        self,
        method: str,
        path: str,
        decode: Callable[[Json, int], Decoded],
        largest: int | None = None,
        **request: Any,
    ) -> Decoded:
        """The decoded response to a request, which is retried. `decode` gets the response and its size in bytes."""
        until = time.monotonic() + self.patience
        once = partial(self._once, method, path, decode, largest, until, request)
        return call_with_retries(once, ApiUnavailableError, self._retries)

    def _retries(self, elapsed: float) -> tenacity.Retrying:
        import tenacity  # only for a retry: the import takes 7 ms

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(ApiUnavailableError),
            stop=tenacity.stop_before_delay(self.patience - elapsed),
            wait=_pause,
            before_sleep=self._renew_credentials,
            reraise=True,
        )

    def _once(
        self,
        method: str,
        path: str,
        decode: Callable[[Json, int], Decoded],
        largest: int | None,
        until: float,
        request: Mapping[str, Any],
    ) -> Decoded:
        seconds = max(0.1, self._timeout, min(READ_SECONDS, until - time.monotonic()))
        with self._session.large_responses.admitted() as admit:
            with self._observed(method, path) as answer:
                response = self._send(method, path, answer, read_seconds=seconds, **request)
                try:
                    body = read_body(response, admit, largest)
                    size, content = len(body), _json_object(body)
                except (urllib3.exceptions.HTTPError, ValueError, TypeError) as cause:
                    answer.status = 0
                    raise ApiUnavailableError(f"cannot {method} {path}: incomplete response: {cause}") from cause
            del body
            return decode(content, size)

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
        is_stream: bool = False,
    ) -> AnyResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "ratchet"}
        target = path + ("?" + urlencode(query) if query else "")
        try:
            response = self._session.send(method, target, headers, body, read_seconds, is_stream=is_stream)
            answer.status = response.status
            if response.status < HTTPStatus.BAD_REQUEST:
                return response
            raise error_of_response(method, path, response.status, response.data, response.headers)
        except (urllib3.exceptions.HTTPError, OSError) as cause:
            answer.status = 0
            raise ApiUnavailableError(
                f"cannot reach the Kubernetes API at {self.host}: {first_line(cause)}",
                details="check that the API server runs and that the kubeconfig has its address",
            ) from cause

    @contextmanager
    def _observed(self, method: str, path: str) -> Iterator[_RequestStatus]:
        """Report the request of the block to the observer. The block sets the status."""
        answer, began = _RequestStatus(), time.monotonic()
        try:
            yield answer
        finally:
            if self._observer:
                self._observer(method, path, answer.status, time.monotonic() - began)

    def _renew_credentials(self, state: tenacity.RetryCallState) -> None:
        if state.outcome is not None and isinstance(state.outcome.exception(), UnauthorizedError):
            self._renew()


def connect(
    kubeconfig: str | None, *, context: str | None = None, patience: float = 15.0, observer: Observer | None = None
) -> ApiServer:
    """The API server of a kubeconfig's context (None: its current context).

    Without a kubeconfig it is the API server of the pod's own cluster. A kubeconfig may be several files, as in
    $KUBECONFIG. Raises InvalidConfigError.
    """
    return ApiServer(lambda: open_connection(kubeconfig, context), patience=patience, observer=observer)


def _json_object(data: bytes | bytearray) -> Json:
    """A response's body as a JSON object. Raises ValueError, TypeError."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise TypeError("expected a JSON object")
    return found


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try: the server's `Retry-After`, else exponential backoff with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiUnavailableError) and error.retry_after is not None:
        return error.retry_after
    import tenacity  # as in `_retries`

    return float(tenacity.wait_random_exponential(multiplier=0.1, max=2.0)(state))
