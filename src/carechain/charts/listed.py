"""Whether a column has one of many numbers, said with one parameter.

The statement is then the same however many numbers there are: it is built, read and prepared once. Hundreds of
parameters, or of numbers in the statement itself, cost more than the search they are for.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

from sqlalchemy import BigInteger, BindParameter, Boolean, ColumnElement, Dialect, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

from carechain.charts.dialect import POSTGRESQL


class NumberList(UserDefinedType[Sequence[int]]):
    """Whole numbers as one value: an array for PostgreSQL, a JSON text for SQLite. ``element`` is a column's type."""

    cache_ok = True
    render_bind_cast = True

    def __init__(self, element: str) -> None:
        self.element = element

    def get_col_spec(self, **_: object) -> str:
        """PostgreSQL's name of the type."""
        return f"{self.element}[]"

    def bind_processor(self, dialect: Dialect) -> Callable[[Sequence[int] | None], str]:
        """Written out: the driver takes several times as long over a list."""
        form = "{%s}" if dialect.name == POSTGRESQL else "[%s]"
        return lambda numbers: form % ",".join(map(str, numbers or ()))


class _Listed(FunctionElement[bool]):
    name = "listed"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: object = None) -> Self:  # noqa: ARG002 - the base class's
        """As it is: a comparison with true, which SQLite would get otherwise, seeks no index."""
        return self


@compiles(_Listed)
def _in_json(element: _Listed, compiler: SQLCompiler, **given: Any) -> str:  # noqa: ANN401 - the compiler's own
    one, numbers = (compiler.process(clause, **given) for clause in element.clauses)
    return f"{one} IN (SELECT value FROM json_each({numbers}))"  # noqa: S608 - two compiled expressions


@compiles(_Listed, POSTGRESQL)
def _in_array(element: _Listed, compiler: SQLCompiler, **given: Any) -> str:  # noqa: ANN401 - the compiler's own
    one, numbers = (compiler.process(clause, **given) for clause in element.clauses)
    return f"{one} = ANY ({numbers})"


def listed(column: ColumnElement[Any], numbers: Sequence[int] | BindParameter[Any]) -> ColumnElement[bool]:
    """Whether a column has one of the numbers. Indexes are sought with it as with an equality.

    A parameter for the numbers may stand in many places of a statement, and is handed over once.
    """
    if not isinstance(numbers, BindParameter):
        kind = NumberList("BIGINT" if isinstance(column.type, BigInteger) else "INTEGER")
        numbers = bindparam("numbers", numbers, type_=kind, unique=True)
    return _Listed(column, numbers)
