"""Operations on objects: create, replace, patch, delete and bind, with the rules of the API.

Every operation holds the storage lock from its first read to its write, so it is atomic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ratchet.dev.api import decode, defaults
from ratchet.dev.api.checks import check_namespace, check_preconditions, check_url
from ratchet.dev.api.kinds import KINDS, NAMESPACES, PODS, JsonObject, ResourceKind
from ratchet.dev.api.operations import DeleteOptions, Target, WriteOptions, Written
from ratchet.dev.api.patch import apply_patch
from ratchet.dev.api.status import (
    ApiError,
    already_exists,
    conflict,
    forbidden,
    invalid,
    not_found,
    required,
    stale,
    success,
    version_required,
)
from ratchet.dev.api.storage import Storage, key_of, with_version
from ratchet.dev.api.validation import check_valid

FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_UNDELETABLE = ("default", "kube-system", "kube-public")
_GENERATE_ATTEMPTS = 8


class Registry:
    """The operations of the API on a storage.

    Args:
        storage: the objects; the initial namespaces are added if missing.
        graceful_pods: a deleted pod on a node is only marked, until the kubelet deletes it with grace period 0.
            Otherwise it is deleted at once.
    """

    def __init__(self, storage: Storage, *, graceful_pods: bool = False) -> None:
        self.storage = storage
        self._graceful_pods = graceful_pods
        for name in FIRST_NAMESPACES:
            if storage.get(NAMESPACES, ("", name)) is None:
                self.create(NAMESPACES, "", {"metadata": {"name": name}})

    def get(self, target: Target) -> JsonObject:
        """The stored object; ApiError 404 when there is none."""
        found = self.storage.get(target.kind, (target.namespace, target.name))
        if found is None:
            raise not_found(target.kind, target.name)
        return found

    def create(self, kind: ResourceKind, namespace: str, body: Any, options: WriteOptions | None = None) -> Written:
        """Create an object from a decoded body.

        Raises:
            ApiError: 400, 404 (no such namespace), 409 AlreadyExists or 422.
        """
        options = options or WriteOptions()
        obj, warnings = decode.canonical(kind, decode.check_kind(kind, body), options.field_validation)
        check_namespace(namespace, obj)
        if obj["metadata"].pop("resourceVersion", "") not in ("", "0"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        with self.storage.lock:
            self._check_namespace_usable(kind, namespace, obj)
            obj = self._named(kind, namespace, obj)
            check_valid(kind, obj)
            if self.storage.get(kind, key_of(obj)) is not None:
                raise already_exists(kind, obj["metadata"]["name"])
            stored = obj if options.dry_run else self.storage.add(kind, obj)
        return Written(stored, created=True, warnings=tuple(warnings))

    def _named(self, kind: ResourceKind, namespace: str, obj: JsonObject) -> JsonObject:
        given = "name" in obj["metadata"]
        for _ in range(_GENERATE_ATTEMPTS):
            obj = defaults.prepare_new(kind, namespace, obj)
            name = obj["metadata"].get("name", "")
            if given or self.storage.get(kind, (obj["metadata"].get("namespace", ""), name)) is None:
                break
            del obj["metadata"]["name"]
        return obj

    def _check_namespace_usable(self, kind: ResourceKind, namespace: str, obj: JsonObject) -> None:
        if not kind.namespaced:
            return
        holder = self.storage.get(NAMESPACES, ("", namespace))
        if holder is None:
            raise not_found(NAMESPACES, namespace)
        if "deletionTimestamp" in holder["metadata"]:
            cause = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(kind, obj["metadata"].get("name", ""), cause)

    def replace(self, target: Target, body: Any, options: WriteOptions | None = None) -> Written:
        """Replace an object, or its status, by a decoded body.

        Raises:
            ApiError: 400, 404, 409 Conflict (stale resourceVersion or another uid) or 422.
        """
        options = options or WriteOptions()
        checked = decode.check_kind(target.kind, body)
        obj, warnings = decode.canonical(target.kind, checked, options.field_validation)
        check_url(target, obj)
        with self.storage.lock:
            if target.kind.create_on_update and self._missing(target):
                return self.create(target.kind, target.namespace, body, options)
            previous = self.get(target)
            if not obj["metadata"].get("resourceVersion", "") and not target.kind.unconditional_update:
                raise version_required(target.kind, target.name)
            uid, current = obj["metadata"].get("uid"), previous["metadata"]["uid"]
            if uid and uid != current:
                cause = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {current}"
                raise conflict(target.kind, target.name, cause)
            stored = self._succeed(target, obj, previous, options.dry_run)
        return Written(stored, warnings=tuple(warnings))

    def _missing(self, target: Target) -> bool:
        return self.storage.get(target.kind, (target.namespace, target.name)) is None

    def patch(self, target: Target, media: str, patch: Any, options: WriteOptions | None = None) -> Written:
        """Change an object, or its status, by a patch of content type ``media``.

        Raises:
            ApiError: 400, 404, 409 Conflict (the patch sets another resourceVersion), 415 or 422.
        """
        options = options or WriteOptions()
        with self.storage.lock:
            previous = self.get(target)
            patched = decode.check_kind(target.kind, apply_patch(target.kind, previous, media, patch))
            obj, warnings = decode.canonical(target.kind, patched, options.field_validation)
            check_url(target, obj)
            stored = self._succeed(target, obj, previous, options.dry_run)
        return Written(stored, warnings=tuple(warnings))

    def _succeed(self, target: Target, obj: JsonObject, previous: JsonObject, dry_run: bool) -> JsonObject:
        """Store ``obj`` as the successor of ``previous``, unless nothing changes."""
        obj = defaults.prepare_update(target.kind, obj, previous, target.subresource)
        meta = obj["metadata"]
        if target.kind.namespaced:
            meta.setdefault("namespace", target.namespace)
        if meta["resourceVersion"] not in ("0", previous["metadata"]["resourceVersion"]):
            raise stale(target.kind, target.name)
        meta["resourceVersion"] = previous["metadata"]["resourceVersion"]
        check_valid(target.kind, obj, previous)
        if obj == previous or dry_run:
            return obj
        if "deletionTimestamp" in meta and not meta.get("finalizers") and self._may_go(target.kind, meta):
            return self._finish(target, obj)
        return self.storage.modify(target.kind, obj)

    def _may_go(self, kind: ResourceKind, meta: JsonObject) -> bool:
        return kind is not PODS or meta.get("deletionGracePeriodSeconds", 0) == 0

    def _finish(self, target: Target, obj: JsonObject) -> JsonObject:
        if target.kind is NAMESPACES:
            self._empty(target.name)
        removed = self.storage.remove(target.kind, key_of(obj))
        return with_version(obj, int(removed["metadata"]["resourceVersion"]))

    def delete(self, target: Target, options: DeleteOptions | None = None) -> JsonObject:
        """Delete an object, or mark it while finalizers or a grace period hold it; returns the response body.

        Raises:
            ApiError: 403, 404 or 409 Conflict when a precondition does not hold.
        """
        options = options or DeleteOptions()
        with self.storage.lock:
            previous = self.get(target)
            if target.kind is NAMESPACES and target.name in _UNDELETABLE:
                raise forbidden(target.kind, target.name, "this namespace may not be deleted")
            check_preconditions(target, previous, options)
            if options.dry_run:
                return self._deleted_body(target, previous)
            grace = self._grace(target.kind, previous, options)
            if previous["metadata"].get("finalizers") or grace:
                return self._mark(target, previous, grace)
            if target.kind is NAMESPACES:
                previous = self._mark(target, previous, 0)
            last = self._finish(target, previous)
            return self._deleted_body(target, last)

    def _deleted_body(self, target: Target, last: JsonObject) -> JsonObject:
        if target.kind.returns_deleted or target.kind is NAMESPACES:
            return last
        return success(target.kind, target.name, last["metadata"]["uid"])

    def _grace(self, kind: ResourceKind, obj: JsonObject, options: DeleteOptions) -> int:
        if kind is not PODS or not self._graceful_pods or not obj["spec"].get("nodeName"):
            return 0
        if obj["status"].get("phase") in ("Succeeded", "Failed"):
            return 0
        if options.grace_seconds is not None:
            return max(options.grace_seconds, 0)
        return int(obj["spec"].get("terminationGracePeriodSeconds", 30))

    def _mark(self, target: Target, previous: JsonObject, grace: int) -> JsonObject:
        meta = dict(previous["metadata"])
        if "deletionTimestamp" in meta and meta.get("deletionGracePeriodSeconds", 0) <= grace:
            return previous
        meta.update(deletionTimestamp=defaults.now(), deletionGracePeriodSeconds=grace)
        marked = {**previous, "metadata": meta}
        if target.kind is NAMESPACES:
            del meta["deletionGracePeriodSeconds"]
            marked["status"] = {**previous["status"], "phase": "Terminating"}
            self._empty(target.name)
        return self.storage.modify(target.kind, marked)

    def _empty(self, namespace: str) -> None:
        """Delete the objects of a namespace, as the namespace controller does."""
        for kind in KINDS:
            if kind.namespaced:
                for obj in self.storage.list(kind, namespace)[0]:
                    self.delete(Target(kind, *key_of(obj)), DeleteOptions(grace_seconds=0))

    def delete_collection(
        self,
        kind: ResourceKind,
        namespace: str,
        selected: Callable[[JsonObject], bool],
        options: DeleteOptions,
    ) -> tuple[list[JsonObject], int]:
        """Delete the selected objects; returns them as they were, and the version."""
        with self.storage.lock:
            chosen = [obj for obj in self.storage.list(kind, namespace)[0] if selected(obj)]
            for obj in chosen:
                self.delete(Target(kind, *key_of(obj)), options)
            return chosen, self.storage.version

    def bind(self, namespace: str, name: str, node: str) -> None:
        """Put a pod on a node.

        Raises:
            ApiError: 404, 409 Conflict when it is on a node already, 422 without a node.
        """
        target = Target(PODS, namespace, name)
        if not node:
            raise invalid(PODS, name, [required("target.name")])
        with self.storage.lock:
            pod = self.get(target)
            if "deletionTimestamp" in pod["metadata"]:
                cause = f"pod {name} is being deleted, cannot be assigned to a host"
                raise conflict(PODS, name, cause, subject="pods/binding")
            if present := pod["spec"].get("nodeName"):
                cause = f'pod {name} is already assigned to node "{present}"'
                raise conflict(PODS, name, cause, subject="pods/binding")
            self.storage.modify(PODS, defaults.bound_pod(pod, node))
