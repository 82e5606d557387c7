"""Failures as the Kubernetes API reports them: ``Status`` objects.

Wording and reasons follow k8s.io/apimachinery/pkg/api/errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ratchet.dev.api.kinds import JsonObject, ResourceKind


class ApiError(Exception):
    """A request that fails with an HTTP code, a machine-readable reason and a message."""

    def __init__(self, code: int, reason: str, message: str, details: JsonObject | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def body(self) -> JsonObject:
        """The ``Status`` object that describes this failure."""
        status: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = self.details
        status["code"] = self.code
        return status


@dataclass(frozen=True)
class FieldError:
    """One field that fails validation; ``kind`` is a cause reason such as "FieldValueInvalid"."""

    kind: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def invalid_value(path: str, value: object, problem: str) -> FieldError:
    """A field whose value is not acceptable."""
    return FieldError("FieldValueInvalid", path, f"Invalid value: {_shown(value)}: {problem}")


def required(path: str, hint: str = "") -> FieldError:
    """A field that must be given and is not."""
    return FieldError("FieldValueRequired", path, f"Required value: {hint}" if hint else "Required value")


def forbidden_field(path: str, problem: str) -> FieldError:
    """A field that may not be given or changed."""
    return FieldError("FieldValueForbidden", path, f"Forbidden: {problem}")


def too_long(path: str, limit: int) -> FieldError:
    """A field that is larger than ``limit`` bytes."""
    return FieldError("FieldValueTooLong", path, f"Too long: may not be more than {limit} bytes")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _details(kind: ResourceKind, name: str, *, by_kind: bool = False) -> JsonObject:
    details: JsonObject = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    details["kind"] = kind.kind if by_kind else kind.plural
    return details


def success(kind: ResourceKind, name: str, uid: str) -> JsonObject:
    """The ``Status`` returned for an object deleted at once."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**_details(kind, name), "uid": uid},
    }


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def not_found(kind: ResourceKind, name: str) -> ApiError:
    """404: no such object."""
    return ApiError(404, "NotFound", f'{kind.resource} "{name}" not found', _details(kind, name))


def already_exists(kind: ResourceKind, name: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', _details(kind, name))


def conflict(kind: ResourceKind, name: str, cause: str, *, subject: str = "") -> ApiError:
    """409: the object is not in the state the request demands."""
    message = f'Operation cannot be fulfilled on {subject or kind.resource} "{name}": {cause}'
    return ApiError(409, "Conflict", message, _details(kind, name))


def stale(kind: ResourceKind, name: str) -> ApiError:
    """409: the resourceVersion in the request is not the object's present one."""
    return conflict(
        kind, name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )  # fmt: skip


def forbidden(kind: ResourceKind, name: str, cause: str) -> ApiError:
    """403: admission refuses the request."""
    return ApiError(403, "Forbidden", f'{kind.resource} "{name}" is forbidden: {cause}', _details(kind, name))


def invalid(kind: ResourceKind, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422: the object is well-formed but not valid; lists every field at fault."""
    texts = [str(error) for error in errors]
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    details = _details(kind, name, by_kind=True)
    details["causes"] = [{"reason": error.kind, "message": error.text, "field": error.field} for error in errors]
    return ApiError(422, "Invalid", f'{kind.qualified_kind} "{name}" is invalid: {joined}', details)


def version_required(kind: ResourceKind, name: str) -> ApiError:
    """422: a replacement of this kind requires a resourceVersion. The message names the resource."""
    field, text = "metadata.resourceVersion", "Invalid value: 0x0: must be specified for an update"
    details = _details(kind, name)
    details["causes"] = [{"reason": "FieldValueInvalid", "message": text, "field": field}]
    return ApiError(422, "Invalid", f'{kind.resource} "{name}" is invalid: {field}: {text}', details)


def expired(requested: int, oldest: int) -> ApiError:
    """410: the history a watch asks for is no longer kept."""
    return ApiError(410, "Expired", f"too old resource version: {requested} ({oldest})")


def too_large_version(requested: int, current: int) -> ApiError:
    """504: a list asks for a state that does not exist yet."""
    message = f"Too large resource version: {requested}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def too_large_body(limit: int) -> ApiError:
    """413: the body exceeds ``limit`` bytes."""
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def unsupported_media(accepted: Sequence[str], note: str = "") -> ApiError:
    """415: the body's content type is not one of ``accepted``."""
    message = "the body of the request was in an unknown format - accepted media types include: "
    message += ", ".join(accepted) + (f" ({note})" if note else "")
    return ApiError(415, "UnsupportedMediaType", message)


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    """406: no representation the client accepts can be produced."""
    message = f"only the following media types are accepted: {', '.join(accepted)}"
    return ApiError(406, "NotAcceptable", message)
