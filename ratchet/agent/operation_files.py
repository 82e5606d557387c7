"""The operations that act on this node's links, on disk: so that they end on time after the agent was killed."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ratchet.core.operations import Operation, parse_operation
from ratchet.node.boot import boot_id
from ratchet.node.files import make_private_directory, write_file

log = logging.getLogger(__name__)

DIRECTORY = "operations"  # in the state directory


@dataclass(frozen=True, slots=True)
class ActiveOperation:
    """An operation that acts on a link since `began`, in seconds since boot. It may be over."""

    namespace: str
    operation: Operation
    began: float


@dataclass(frozen=True, slots=True)
class OperationFiles:
    """One file for each link with an operation. A file that cannot be written is logged: the record has the start."""

    state_dir: str

    def load(self) -> dict[str, ActiveOperation]:
        """The operations of this boot, by the names of their links' records. Other files are removed."""
        found = dict[str, ActiveOperation]()
        for path in self._paths():
            try:
                document = json.loads(path.read_bytes())
                if document["boot"] == boot_id():
                    operation = replace(parse_operation(document["operation"]), id=str(document["id"]))
                    active = ActiveOperation(document["namespace"], operation, float(document["began"]))
                    found[str(document["link"])] = active
                    continue
            except (OSError, ValueError, KeyError, TypeError) as cause:
                log.warning('operation on disk dropped file=%s cause="%s"', path, cause)
            with suppress(OSError):
                path.unlink()
        return found

    def save(self, link: str, active: ActiveOperation) -> None:
        """Keep the operation on a link."""
        document = {"link": link, "namespace": active.namespace, "began": active.began, "boot": boot_id()}
        document |= {"id": active.operation.id, "operation": active.operation.as_text()}
        path = self._path(link)
        try:
            make_private_directory(path.parent)
            write_file(path, json.dumps(document).encode())
        except OSError as cause:
            log.warning('cannot keep an operation link=%s cause="%s"', link, cause)

    def remove(self, link: str) -> None:
        try:
            self._path(link).unlink(missing_ok=True)
        except OSError as cause:
            log.warning('cannot remove an operation link=%s cause="%s"', link, cause)

    def _paths(self) -> list[Path]:
        directory = Path(self.state_dir, DIRECTORY)
        return [path for path in directory.iterdir() if path.is_file()] if directory.is_dir() else []

    def _path(self, link: str) -> Path:
        return Path(self.state_dir, DIRECTORY, sha256(link.encode()).hexdigest()[:32])
