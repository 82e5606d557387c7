"""Strategic merge patches of pod specs, without a server because it would reject these changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ratchet.dev.api.kinds import PODS
from ratchet.dev.api.patch import STRATEGIC_PATCH, apply_patch
from ratchet.dev.api.status import ApiError

_POD: dict[str, Any] = {
    "metadata": {"name": "p", "finalizers": ["a", "b", "c"]},
    "spec": {
        "containers": [
            {"name": "one", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "two", "image": "j", "ports": [{"containerPort": 80, "name": "web"}]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "t1"}],
    },
}


def _patched(patch: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy(_POD)
    result = apply_patch(PODS, _POD, STRATEGIC_PATCH, patch)
    assert before == _POD
    return result


def _spec(**spec: Any) -> dict[str, Any]:
    result: dict[str, Any] = _patched({"spec": spec})["spec"]
    return result


def test_lists_merge_by_key_at_every_depth() -> None:
    changed = _spec(containers=[{"name": "one", "image": "k", "env": [{"name": "B", "value": "3"}]}])
    one, two = changed["containers"]
    assert one["image"] == "k"
    assert one["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}]
    assert two == _POD["spec"]["containers"][1]


def test_new_items_are_appended() -> None:
    changed = _spec(containers=[{"name": "three", "image": "l"}])
    assert [item["name"] for item in changed["containers"]] == ["one", "two", "three"]


def test_items_are_deleted_by_key() -> None:
    changed = _spec(containers=[{"name": "one", "$patch": "delete"}])
    assert [item["name"] for item in changed["containers"]] == ["two"]
    changed = _spec(containers=[{"name": "two", "ports": [{"containerPort": 80, "$patch": "delete"}]}])
    assert changed["containers"][1]["ports"] == []


def test_patch_directives_replace_or_delete_lists_and_maps() -> None:
    changed = _spec(containers=[{"$patch": "replace"}, {"name": "new", "image": "m"}])
    assert changed["containers"] == [{"name": "new", "image": "m"}]
    assert _patched({"spec": {"$patch": "replace", "nodeName": "n"}})["spec"] == {"nodeName": "n"}
    assert "spec" not in _patched({"spec": {"$patch": "delete"}})


def test_lists_without_a_key_are_atomic() -> None:
    assert _spec(tolerations=[{"key": "t2"}])["tolerations"] == [{"key": "t2"}]


def test_set_element_order_reorders_a_list() -> None:
    changed = _spec(**{
        "$setElementOrder/containers": [{"name": "three"}, {"name": "two"}, {"name": "one"}],
        "containers": [{"name": "three", "image": "l"}],
    })  # fmt: skip
    assert [item["name"] for item in changed["containers"]] == ["three", "two", "one"]
    assert "$setElementOrder/containers" not in changed


def test_retain_keys_drops_other_keys() -> None:
    changed = _spec(volumes=[{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}])
    assert changed["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_primitive_lists_are_merged_deleted_from_and_ordered() -> None:
    def finalizers(**meta: Any) -> list[str]:
        result: list[str] = _patched({"metadata": meta})["metadata"]["finalizers"]
        return result

    assert finalizers(finalizers=["c", "d"]) == ["a", "b", "c", "d"]
    assert finalizers(**{"$deleteFromPrimitiveList/finalizers": ["a", "c"]}) == ["b"]
    assert finalizers(**{"$setElementOrder/finalizers": ["c", "b", "a"]}) == ["c", "b", "a"]


@pytest.mark.parametrize(
    "patch",
    [
        {"spec": {"containers": [{"image": "no key"}]}},
        {"spec": {"containers": ["text"]}},
        {"spec": {"$patch": "nonsense"}},
    ],
)
def test_malformed_patches_are_400(patch: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        _patched(patch)
    assert caught.value.code == 400
