"""Every agent option and every key of the network configuration has an end-to-end test of its effect."""

from __future__ import annotations

from ratchet.agent.options import OPTIONS
from ratchet.agent.service import _OWN
from ratchet.cni.plugin_keys import PLUGIN_KEYS
from tests.agent import test_options
from tests.plugin import test_keys


def test_every_option_has_a_test_of_its_effect() -> None:
    assert set(test_options.EFFECTS) == {option.name for option in OPTIONS}


def test_every_key_has_a_test_of_its_effect_on_each_host_that_uses_it() -> None:
    assert set(test_keys.EFFECTS) == {key.name for key in PLUGIN_KEYS}
    for key, (_, hosts) in test_keys.EFFECTS.items():
        assert set(hosts) == ({"daemonless"} if key in _OWN else {"daemonless", "agent"}), key
