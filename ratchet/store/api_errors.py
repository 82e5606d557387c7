"""The errors of requests to the Kubernetes API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.client import responses
from typing import Any

from ratchet.errors import ApiUnavailableError, ConflictError, RatchetError

_RETRIED = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)

# One of these is in the message of every denied request (`ratchet.store.denials`).
_DENIALS = ("forbidden: ", "Internal error occurred: ", "etcdserver: ")
_FORBIDDEN = "check the permissions of the account: docs/operations.md lists them all"
_NO_STATUS = "the response is not that of an API server: check the proxies and firewalls in front of it"


# A request that the API server hands on (kubernetes.io, "Manually constructing apiserver proxy URLs").
_PROXIED = re.compile(r"/(pods|services|nodes)/[^/]+/proxy/")


class NotFoundError(RatchetError):
    """The API has no such object, according to a Status of the API server."""


class ForbiddenError(RatchetError):
    """The account lacks a permission. The message names it."""


class AdmissionDeniedError(RatchetError):
    """The account has the permission, and admission denied the request. The message and `details` name what did."""


class NamespaceTerminatingError(AdmissionDeniedError):
    """The namespace of an object to create is being deleted."""


class AlreadyExistsError(ConflictError):
    """An object of this name exists."""


class ExpiredError(ConflictError):
    """The API server no longer has the resourceVersion of a watch or a list: list again."""


class UnauthorizedError(ApiUnavailableError):
    """The API server rejects the credentials. They may have been renewed since they were read."""


def error_of_response(method: str, path: str, status: int, data: bytes, headers: Mapping[str, str]) -> RatchetError:
    """The error of a response with a status of 400 or more."""
    answer = _decoded(data)
    message = f"cannot {method} {path}: {answer.get('message') or responses.get(status, f'HTTP status {status}')}"
    if status == HTTPStatus.UNAUTHORIZED:
        return UnauthorizedError(message)
    denial = _denial(message, answer)
    if status in _RETRIED:
        details = denial.details if denial is not None else ""
        return ApiUnavailableError(message, details=details, retry_after=_seconds(headers.get("Retry-After")))
    if denial is not None:
        return denial
    if status == HTTPStatus.FORBIDDEN:
        return ForbiddenError(message, details=_FORBIDDEN if answer else _NO_STATUS)
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(method, path, message, answer)
    if status == HTTPStatus.CONFLICT:
        exists = answer.get("reason") == "AlreadyExists"
        return AlreadyExistsError(message) if exists else ConflictError(message)
    if status == HTTPStatus.GONE:
        return ExpiredError(message)
    return RatchetError(message)


def _denial(message: str, answer: Mapping[str, Any]) -> RatchetError | None:
    """The error of a denied request. A denial by admission may have any status, also that of a missing object."""
    if not any(mark in message for mark in _DENIALS):
        return None
    from ratchet.store.denials import error_of_denial  # here, because a pod start without denials must not pay for it

    return error_of_denial(message, answer)


def _decoded(data: bytes) -> dict[str, Any]:
    """The Status of a response; empty if the response has none, as that of a proxy."""
    try:
        answer = json.loads(data)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _not_found(method: str, path: str, message: str, answer: Mapping[str, Any]) -> RatchetError:
    """The error of a 404. Only a Status of the API server says that the object is missing.

    Anything in front of the API server may answer 404 too. A pod behind the subresource `proxy` answers for itself.
    """
    is_status = (answer.get("kind"), answer.get("reason")) == ("Status", "NotFound")
    if is_status or _PROXIED.search(path):
        return NotFoundError(message)
    return ApiUnavailableError(
        f"cannot {method} {path}: HTTP status 404 without a Kubernetes Status",
        details="check that the kubeconfig has the address of the API server, and check the proxies before it",
    )


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdigit() else None


def first_line(cause: BaseException) -> str:
    """The first line of an exception's text, or of the text of its `reason`."""
    reason = getattr(cause, "reason", None)
    return str(reason if isinstance(reason, Exception | str) and str(reason) else cause).splitlines()[0][:300]
