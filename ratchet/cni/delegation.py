"""A delegated plugin's configuration and result, kept from its ADD for its CHECK and DEL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ratchet.cni.config import NetworkConfig, is_plugin_type
from ratchet.cni.result import Result
from ratchet.cni.versions import SUPPORTED
from ratchet.core.escape import excerpt, quoted
from ratchet.errors import DelegateError, MalformedRecordError


@dataclass(frozen=True, slots=True)
class Delegation:
    """The configuration that a delegate received and the result that it returned.

    `config` is the configuration as written to stdin, without prevResult. `result` is what ADD printed, in the version
    of the configuration; None if ADD did not succeed or the result was not kept. `stderr` is the tail of the plugin's
    stderr, for the log; it is not kept.
    """

    config: Mapping[str, Any]
    result: Mapping[str, Any] | None = None
    stderr: str = field(default="", compare=False)

    @property
    def type(self) -> str:
        return str(self.config["type"])

    @property
    def version(self) -> str:
        return str(self.config["cniVersion"])

    def decoded_result(self) -> Result:
        """The result of ADD; empty if there is none. Raises DelegateError if it cannot be read."""
        if self.result is None:
            return Result()
        try:
            return Result.from_json(self.result, _result_version(self.result, self.version))
        except ValueError as error:
            raise DelegateError(
                f"cannot add the delegate network (type {excerpt(self.type)}): its result is wrong: {error}"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Encode the delegation as an object for json.dumps."""
        return {"config": dict(self.config), "result": None if self.result is None else dict(self.result)}

    @classmethod
    def from_json(cls, obj: object) -> Delegation:
        """Decode an object that `to_json` made. Raises MalformedRecordError for anything else."""
        record = obj if isinstance(obj, dict) else {}
        config, result = record.get("config"), record.get("result")
        if not _is_config(config) or not (result is None or isinstance(result, dict)):
            raise MalformedRecordError(f"cannot read the record of a delegate: {quoted(obj)} is none")
        return cls(config, result)


def prepare(delegate: Mapping[str, Any], network: NetworkConfig) -> Delegation:
    """The delegation before ADD, without a result. It is kept so that a killed ADD can be undone.

    DEL also uses it if no delegation was kept. The keys are those of SPEC.md, section 3, "Deriving request
    configuration". runtimeConfig holds the capabilities that the delegate declares and the runtime provides.
    """
    config = {key: value for key, value in delegate.items() if key not in ("capabilities", "prevResult")}
    config["name"] = delegate.get("name") or network.name
    config["cniVersion"] = delegate.get("cniVersion") or network.cni_version
    declared = delegate.get("capabilities")
    wanted = [key for key, on in declared.items() if on is True] if isinstance(declared, dict) else []
    given = {key: network.runtime_config[key] for key in wanted if key in network.runtime_config}
    if given:
        config["runtimeConfig"] = given
    if "args" in network.raw:
        config.setdefault("args", network.raw["args"])
    return Delegation(config)


def _is_config(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, dict) and is_plugin_type(value.get("type")) and value.get("cniVersion") in SUPPORTED


def _result_version(result: Mapping[str, Any], sent: str) -> str:
    stated = result.get("cniVersion")
    version = sent if stated in (None, "") else stated
    if version not in SUPPORTED:
        raise ValueError(f"cniVersion {quoted(version)} is not supported")
    return str(version)
