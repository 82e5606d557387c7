"""Arguments and results of operations."""

from __future__ import annotations

from dataclasses import dataclass

from ratchet.dev.api.kinds import JsonObject, ResourceKind


@dataclass(frozen=True)
class WriteOptions:
    """Options of a write: ``field_validation`` is Strict, Warn or Ignore ("" means Warn)."""

    dry_run: bool = False
    field_validation: str = ""


@dataclass(frozen=True)
class DeleteOptions:
    """Options of a deletion.

    An empty precondition is not checked. ``grace_seconds`` None means the default.
    """

    uid: str = ""
    resource_version: str = ""
    grace_seconds: int | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Target:
    """The object of a request."""

    kind: ResourceKind
    namespace: str
    name: str
    subresource: str = ""


@dataclass(frozen=True)
class Written:
    """The result of a write: the object, whether it is new, and warnings for the client."""

    object: JsonObject
    created: bool = False
    warnings: tuple[str, ...] = ()
