"""The node agent: the host that stays, and does what only something that stays can do."""
