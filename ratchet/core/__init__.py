"""Ratchet's decisions, as functions of values: no I/O, no clock, no logging."""
