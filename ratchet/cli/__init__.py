"""The `ratchet` command for people."""
