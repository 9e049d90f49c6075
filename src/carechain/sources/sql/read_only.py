"""Making sure that a database is only read: by how it is opened, and by what its user may do at all.

Each statement runs in a transaction that the database itself keeps from writing. Besides, the user must have no right
to write, so that a mistake in the first would change nothing: both are asked of the database, and what is not known to
be harmless is refused.
"""

import re
import sqlite3
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import NoSuchModuleError
from sqlalchemy.pool import NullPool

from carechain.core.rejection import Rejected, require
from carechain.sources.codes import SourceCode

CONNECT_S: Final = 10
STATEMENT_S: Final = 60
"""A query that takes longer is given up."""
CONNECTIONS: Final = 4

_POSTGRESQL_ROLE: Final = """
SELECT count(*) FROM pg_roles r WHERE pg_has_role(r.oid, 'MEMBER')
AND (r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
     OR (r.rolname LIKE 'pg!_%' ESCAPE '!' AND r.rolname NOT IN
         ('pg_read_all_data', 'pg_read_all_settings', 'pg_read_all_stats', 'pg_stat_scan_tables', 'pg_monitor')))
"""
_POSTGRESQL_TABLES: Final = """
SELECT count(*) FROM pg_roles r, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE pg_has_role(r.oid, 'MEMBER') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
AND n.nspname NOT LIKE 'pg!_%' ESCAPE '!' AND n.nspname <> 'information_schema'
AND (has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
     OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE'))
"""
_POSTGRESQL_SCHEMAS: Final = """
SELECT count(*) FROM pg_roles r, pg_namespace n WHERE pg_has_role(r.oid, 'MEMBER')
AND n.nspname NOT LIKE 'pg!_%' ESCAPE '!' AND n.nspname <> 'information_schema'
AND (has_schema_privilege(r.oid, n.oid, 'CREATE') OR has_database_privilege(r.oid, current_database(), 'CREATE'))
"""
_SQL_SERVER: Final = """
SELECT (SELECT count(*) FROM fn_my_permissions(NULL, 'DATABASE') WHERE permission_name NOT IN ('CONNECT', 'SELECT',
  'VIEW ANY COLUMN ENCRYPTION KEY DEFINITION', 'VIEW ANY COLUMN MASTER KEY DEFINITION'))
+ (SELECT count(*) FROM sys.objects o CROSS APPLY fn_my_permissions(QUOTENAME(SCHEMA_NAME(o.schema_id)) + '.'
  + QUOTENAME(o.name), 'OBJECT') p WHERE o.type IN ('U', 'V') AND p.permission_name <> 'SELECT')
"""
_MYSQL_GRANT: Final = re.compile(r"GRANT (?P<rights>.+?) ON (?:\S+|`[^`]*`\.(?:`[^`]*`|\*)) TO ")
_MYSQL_HARMLESS: Final = frozenset({"USAGE", "SELECT", "SHOW VIEW"})
_COLUMNS: Final = re.compile(r"\([^)]*\)")


def open_read_only(url: URL) -> Engine:
    """An engine on which nothing can be written. Nothing is connected to yet.

    Raises ``Rejected`` (DIALECT_UNKNOWN, DRIVER_MISSING).
    """
    opened = _OPENERS.get(url.get_backend_name())
    if opened is None:
        raise Rejected(SourceCode.DIALECT_UNKNOWN)
    try:
        return opened(url)
    except NoSuchModuleError:
        raise Rejected(SourceCode.DIALECT_UNKNOWN) from None
    except ModuleNotFoundError:
        raise Rejected(SourceCode.DRIVER_MISSING) from None


def require_read_only(connection: Connection) -> None:
    """Ask the database what its user may do. Raises ``Rejected(USER_MAY_WRITE)`` unless that is reading alone."""
    require(_HARMLESS[connection.dialect.name](connection), SourceCode.USER_MAY_WRITE)


def _open_postgresql(url: URL) -> Engine:
    options = f"-c default_transaction_read_only=on -c statement_timeout={STATEMENT_S * 1000} -c timezone=UTC"
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={"connect_timeout": CONNECT_S, "options": options},
    )
    return engine.execution_options(postgresql_readonly=True)


def _open_mysql(url: URL) -> Engine:
    engine = create_engine(
        url.update_query_dict({"charset": "utf8mb4"}),
        hide_parameters=True,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        connect_args={"connect_timeout": CONNECT_S, "read_timeout": STATEMENT_S, "write_timeout": STATEMENT_S},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.close()

    return engine


def _open_sqlite(url: URL) -> Engine:
    path = url.database or ""

    def connect() -> sqlite3.Connection:
        # Nothing is made where the file is missing, and the file itself is opened for reading.
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=ro", uri=True, timeout=CONNECT_S, check_same_thread=False, isolation_level=None
        )
        connection.execute("PRAGMA query_only=ON")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _open_sql_server(url: URL) -> Engine:
    return create_engine(url, hide_parameters=True, pool_size=CONNECTIONS, max_overflow=0, pool_pre_ping=True)


def _harmless_postgresql(connection: Connection) -> bool:
    asked = (_POSTGRESQL_ROLE, _POSTGRESQL_TABLES, _POSTGRESQL_SCHEMAS)
    return not any(connection.execute(text(one)).scalar_one() for one in asked)


def _harmless_mysql(connection: Connection) -> bool:
    """Every right is listed; a line that is not about plain rights gives a role, a proxy, or something newer."""
    return all(_is_harmless_grant(str(line)) for line in connection.execute(text("SHOW GRANTS")).scalars())


def _is_harmless_grant(line: str) -> bool:
    found = _MYSQL_GRANT.match(line)
    if found is None or "WITH GRANT OPTION" in line:
        return False
    rights = _COLUMNS.sub("", found["rights"]).split(",")
    return {one.strip() for one in rights} <= _MYSQL_HARMLESS


def _harmless_sqlite(connection: Connection) -> bool:
    return bool(connection.exec_driver_sql("PRAGMA query_only").scalar_one())


def _harmless_sql_server(connection: Connection) -> bool:
    return not connection.execute(text(_SQL_SERVER)).scalar_one()


_OPENERS: Final[dict[str, Callable[[URL], Engine]]] = {
    "mariadb": _open_mysql,
    "mssql": _open_sql_server,
    "mysql": _open_mysql,
    "postgresql": _open_postgresql,
    "sqlite": _open_sqlite,
}
_HARMLESS: Final[dict[str, Callable[[Connection], bool]]] = {
    "mariadb": _harmless_mysql,
    "mssql": _harmless_sql_server,
    "mysql": _harmless_mysql,
    "postgresql": _harmless_postgresql,
    "sqlite": _harmless_sqlite,
}
