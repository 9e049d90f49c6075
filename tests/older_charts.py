"""A file of this release turned into one of an older format, as the older release would have left it."""

import sqlite3
from contextlib import closing
from pathlib import Path

ADDED_IN_4 = (
    *(f"ALTER TABLE {name} DROP COLUMN key" for name in ("resources", "directory")),
    "ALTER TABLE index_state DROP COLUMN last_shelf",
    "CREATE UNIQUE INDEX live_by_name ON live (resource_type, resource_id)",
    "CREATE INDEX live_by_record ON live (record_id)",
)
_ADDED_IN_3 = (
    *(f"DROP TABLE {name}" for name in ("live", "shelves", "index_state", "waiting_records")),
    *(f"DROP TABLE {kind}_index" for kind in ("token", "reference", "string", "date", "number")),
    "DROP INDEX resources_by_type",
    "DROP INDEX directory_by_seq",
    *(f"ALTER TABLE resources DROP COLUMN {name}" for name in ("updated_us", "grade")),
    *(f"ALTER TABLE directory DROP COLUMN {name}" for name in ("updated_us", "seq")),
    "ALTER TABLE patients DROP COLUMN bound",
)
_ADDED_IN_2 = ("DROP TABLE erased_records", "DROP INDEX record_resources_by_resource")


def to_format(path: Path, version: int) -> None:
    """Take away what later formats added. The file must be closed."""
    later = {2: _ADDED_IN_2, 3: _ADDED_IN_3, 4: ADDED_IN_4}
    statements = [one for added in sorted(later, reverse=True) if added > version for one in later[added]]
    with closing(sqlite3.connect(path)) as old, old:
        for statement in statements:
            old.execute(statement)
        old.execute("UPDATE store_info SET version = ?", (version,))
