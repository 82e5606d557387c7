"""The formats of a record.

EARLIER: named after the pod that declares the link. CURRENT: named after the unordered pair of endpoints; `primary` is
an attribute. PANEL: as CURRENT, for a link in panel wiring, which an earlier version would take for a direct one.
Source: docs/architecture.md, "Change of format".
"""

EARLIER_SCHEMA, CURRENT_SCHEMA, PANEL_SCHEMA = 1, 2, 3
# The newest format that this version reads.
READ_SCHEMA = PANEL_SCHEMA
