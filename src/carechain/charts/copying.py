"""Rows go into PostgreSQL while Python makes the next ones (``COPY`` in binary).

A ``COPY`` keeps its caller waiting until the server has put every row into every index, which is half of the time that
a large transaction takes. Here rows are handed to the connection, and the caller goes on making others and gives a
:meth:`Copying.push` now and then. All of them have arrived before anything else is asked on the connection:
:meth:`Copying.finish`. https://www.postgresql.org/docs/current/sql-copy.html has the binary format.
"""

import select
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.pq.abc import PGconn, PGresult

PIECE_BYTES: Final = 64 * 1024
BUFFERED_BYTES: Final = 4 * 1024 * 1024
"""So much of one ``COPY`` may wait in memory for the server; what is beyond is waited for."""
_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_FIXED: Final = {"bigint": (8, "q"), "integer": (4, "i"), "smallint": (2, "h"), "float8": (8, "d")}
_TEXTS: Final = frozenset({"text", "varchar"})
_LENGTH: Final = Struct("!i")
_COUNT: Final = Struct("!h")

Row = Sequence[Any]


class CopyFailed(Exception):  # noqa: N818 - the state of the environment, not of the caller or the program
    """The server refused the rows, or is gone; carries the name of the driver's error class only."""


class Copying:
    """What is on its way over one connection of psycopg's; good for one transaction, which has begun."""

    def __init__(self, driver: "Connection[Any]") -> None:
        from psycopg.pq import TransactionStatus  # noqa: PLC0415 - whoever keeps charts in SQLite does without it

        self._server: PGconn = driver.pgconn
        if self._server.transaction_status != TransactionStatus.INTRANS:
            raise ValueError("rows are added inside a transaction")
        self._waiting: deque[tuple[bytes, bytes]] = deque()
        self._is_running = False

    def add(self, statement: str, rows: bytes) -> None:
        """Hand over the rows of one ``COPY``, made by :func:`packed`. Raises :class:`CopyFailed`."""
        self._waiting.append((statement.encode(), rows))
        self.push()

    def push(self) -> None:
        """Go on as far as it takes no waiting. Raises :class:`CopyFailed`, of earlier rows too."""
        self._trying(self._go_on)

    def finish(self) -> None:
        """Wait until everything has arrived. Raises :class:`CopyFailed`."""

        def all_of_it() -> None:
            self._go_on()
            while self._is_running:
                self._wait()
                self._go_on()

        self._trying(all_of_it)

    def abandon(self) -> None:
        """The transaction is given up: hand over nothing more, and see that the connection is free again."""
        self._waiting.clear()
        self.finish()

    def _trying(self, doing: Callable[[], None]) -> None:
        from psycopg import Error  # noqa: PLC0415 - see above

        try:
            doing()
        except Error as error:
            # The transaction is lost, so what comes after is of no use.
            self._waiting.clear()
            self._is_running = False
            raise CopyFailed(type(error).__name__) from None

    def _go_on(self) -> None:
        while self._is_running or self._waiting:
            if not self._is_running:
                self._begin(*self._waiting.popleft())
            self._server.flush()
            self._server.consume_input()
            if not self._is_over():
                return

    def _begin(self, statement: bytes, rows: bytes) -> None:
        """The server's word that it will copy comes at once, so this waits for it."""
        from psycopg.pq import ExecStatus  # noqa: PLC0415 - see above

        server = self._server
        server.send_query(statement)
        self._is_running = True
        while server.flush() or server.is_busy():
            self._wait()
            server.consume_input()
        answer = server.get_result()
        if answer is None or answer.status != ExecStatus.COPY_IN:
            self._refused(answer)
        for start in range(0, len(rows), PIECE_BYTES):
            self._put(partial(server.put_copy_data, rows[start : start + PIECE_BYTES]))
            while start > BUFFERED_BYTES and server.flush():
                self._wait()
                # The server may be saying that it takes no more.
                server.consume_input()
        self._put(server.put_copy_end)

    def _put(self, putting: Callable[[], int]) -> None:
        """Into the connection's buffer; where there is no room, something has to go first."""
        from psycopg import OperationalError  # noqa: PLC0415 - see above

        while not putting():
            if not self._server.flush():
                raise OperationalError
            self._wait()
            self._server.consume_input()

    def _is_over(self) -> bool:
        """Take in what has come; whether that was the end of the ``COPY``."""
        from psycopg.pq import ExecStatus  # noqa: PLC0415 - see above

        while not self._server.is_busy():
            answer = self._server.get_result()
            if answer is None:
                self._is_running = False
                return True
            if answer.status != ExecStatus.COMMAND_OK:
                self._refused(answer)
        return False

    def _refused(self, answer: "PGresult | None") -> None:
        """Let the server come to its end, and say what it said."""
        from psycopg.errors import OperationalError, error_from_result  # noqa: PLC0415 - see above

        following = answer
        while following is not None:
            while self._server.is_busy():
                self._wait()
                self._server.consume_input()
            following = self._server.get_result()
        raise OperationalError if answer is None else error_from_result(answer)

    def _wait(self) -> None:
        """Until something comes, or can go."""
        waiting = select.poll()
        waiting.register(self._server.socket, select.POLLIN | (select.POLLOUT if self._server.flush() else 0))
        waiting.poll()


def packed(types: tuple[str, ...], rows: Iterable[Row]) -> bytes:
    """Rows as ``COPY … (FORMAT BINARY)`` takes them; ``types`` are PostgreSQL's names of the columns' types."""
    return b"".join((_HEAD, *map(_packing(types), rows), _TAIL))


@lru_cache(maxsize=64)
def _packing(types: tuple[str, ...]) -> Callable[[Row], bytes]:
    if all(one in _FIXED for one in types):
        return _all_fixed(types)
    count = _COUNT.pack(len(types))
    packers = tuple(_packer(one) for one in types)

    def pack(row: Row) -> bytes:
        return count + b"".join([_NULL if value is None else make(value) for make, value in zip(packers, row)])  # noqa: B905 - a row of its table

    return pack


def _all_fixed(types: tuple[str, ...]) -> Callable[[Row], bytes]:
    """One stroke for a row of numbers; those tables have no nulls."""
    pack = Struct("!h" + "".join("i" + _FIXED[one][1] for one in types)).pack
    mould: list[Any] = [len(types)]
    for one in types:
        mould += (_FIXED[one][0], None)

    def fill(row: Row) -> bytes:
        mould[2::2] = row
        return pack(*mould)

    return fill


def _packer(type_name: str) -> Callable[[Any], bytes]:
    if type_name in _FIXED:
        size, letter = _FIXED[type_name]
        return partial(Struct("!i" + letter).pack, size)
    if type_name in _TEXTS:
        return _text
    if type_name == "bytea":
        return _bytes
    raise ValueError(type_name)


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


def _text(value: str) -> bytes:
    return _bytes(value.encode())
