"""Checks that a request matches its object."""

from __future__ import annotations

from ratchet.dev.api.kinds import JsonObject
from ratchet.dev.api.operations import DeleteOptions, Target
from ratchet.dev.api.status import bad_request, conflict


def check_namespace(namespace: str, obj: JsonObject) -> None:
    """Check that an object has the namespace of the URL. Raises ApiError 400."""
    if obj["metadata"].get("namespace", namespace) != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


def check_url(target: Target, obj: JsonObject) -> None:
    """Check that an object has the name of the URL. Raises ApiError 400."""
    name = obj["metadata"].get("name", "")
    if not name:
        raise bad_request(
            f"the name of the object ({target.name} based on URL) was undeterminable: name must be provided"
        )
    if name != target.name:
        raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({target.name})")
    given = obj["metadata"].get("namespace", target.namespace)
    if given != target.namespace:
        raise bad_request(
            f"the namespace of the object ({given}) does not match the namespace on the URL ({target.namespace})"
        )


def check_preconditions(target: Target, obj: JsonObject, options: DeleteOptions) -> None:
    """Check the preconditions of a deletion. Raises ApiError 409."""
    meta = obj["metadata"]
    for label, wanted, present, change in (
        ("UID", options.uid, meta["uid"], "deleted and then recreated"),
        ("ResourceVersion", options.resource_version, meta["resourceVersion"], "modified"),
    ):
        if wanted and wanted != present:
            cause = (
                f"the {label} in the precondition ({wanted}) does not match the {label} in record ({present}). "
                f"The object might have been {change}"
            )
            raise conflict(target.kind, target.name, cause, subject=target.kind.qualified_kind)
