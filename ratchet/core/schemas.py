"""The formats of a record.

EARLIER: named after the pod that declares the link. CURRENT: named after the unordered pair of endpoints; `primary` is
an attribute. Source: docs/architecture.md, "Change of format".
"""

EARLIER_SCHEMA, CURRENT_SCHEMA = 1, 2
