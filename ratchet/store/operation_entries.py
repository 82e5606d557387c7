"""The operations of a namespace in the API: the entries of its ConfigMap, and conditional writes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ratchet.core.intent import TOPOLOGY_LABEL
from ratchet.core.operations import OPERATIONS_NAME, OPERATIONS_VALUE
from ratchet.errors import ConflictError, RatchetError
from ratchet.retry import call_with_retries
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec import merge_changes
from ratchet.store.codec.operations import encode_operations, is_operations
from ratchet.store.paths import config_maps_path

if TYPE_CHECKING:
    import tenacity

CONFLICT_SECONDS = 30.0

Entries = Mapping[str, str]


class EntriesEdit(NamedTuple):
    """The entries of a namespace before and after a write."""

    before: Entries
    after: Entries


class OperationEntries:
    """The entries of a namespace's operations: the names of links' records, and texts (`core.operations`)."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._collection = config_maps_path(namespace)
        self._path = f"{self._collection}/{OPERATIONS_NAME}"

    def read(self) -> Entries:
        """The entries; none if there is no ConfigMap. Raises RatchetError if the ConfigMap lacks the label."""
        config_map = self._read()
        return {} if config_map is None else config_map.get("data") or {}

    def edit(self, change: Callable[[Entries], Entries]) -> EntriesEdit:
        """Replace the entries by what `change` makes of them, again after each conflict with another writer.

        Creates the ConfigMap if it is missing. Entries that do not change are not written. Raises RatchetError, and
        what `change` raises.
        """
        return call_with_retries(lambda: self._edit_once(change), ConflictError, _retries)

    def _edit_once(self, change: Callable[[Entries], Entries]) -> EntriesEdit:
        config_map = self._read()
        before: Entries = {} if config_map is None else config_map.get("data") or {}
        after = change(before)
        if after != before:
            if config_map is None:
                self._create(after)
            else:
                self._patch(config_map["metadata"], merge_changes(before, after))
        return EntriesEdit(before, after)

    def _read(self) -> dict[str, Any] | None:
        try:
            config_map = self._api.get(self._path)
        except NotFoundError:
            return None
        if is_operations(config_map, TOPOLOGY_LABEL):
            return config_map
        raise RatchetError(
            f"cannot use ConfigMap {self._namespace}/{OPERATIONS_NAME} for operations: "
            f"it lacks the label {TOPOLOGY_LABEL}: {OPERATIONS_VALUE}",
            details="delete or rename it if it is not Ratchet's, or add the label",
        )

    def _create(self, entries: Entries) -> None:
        try:
            self._api.create(self._collection, encode_operations(TOPOLOGY_LABEL, entries))
        except NotFoundError as cause:
            raise RatchetError(f"cannot write operations: namespace {self._namespace} does not exist") from cause

    def _patch(self, metadata: Mapping[str, Any], changes: Mapping[str, str | None]) -> None:
        version = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            self._api.patch(self._path, {"metadata": version, "data": changes})
        except NotFoundError as cause:
            raise ConflictError(f"cannot write {self._path}: it was deleted meanwhile") from cause


def _retries(elapsed: float) -> tenacity.Retrying:
    import tenacity  # only for a retry: the import takes 7 ms

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConflictError),
        stop=tenacity.stop_after_delay(CONFLICT_SECONDS - elapsed),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1.0),
        reraise=True,
    )
