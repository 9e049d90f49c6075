"""What one caller may see of the charts: said once, and put into every statement that is asked of the database.

A sight is made from committed decisions (tickets) and never from what a caller says. Hidden rows are not filtered out
of an answer: they are not read. The words are the ledger's own (:class:`carechain.core.scope.Scope`), so what a ticket
covers and what a search returns cannot come apart (CON-1, API-1).
"""

from typing import Final

from msgspec import Struct

from carechain.core.scope import EVERYTHING, Scope


class Window(Struct, frozen=True, kw_only=True):
    """One patient's records as far as one live decision lets them be seen."""

    pseudonym: bytes
    scope: Scope


class Sight(Struct, frozen=True, kw_only=True):
    """Everything, or the windows; an empty sight sees the shared directory at most.

    ``everything`` is for the custodian's own systems, which write these charts: no ticket stands behind it.
    ``directory``: whether the shared resources (organisations, practitioners, places) are seen.
    """

    everything: bool = False
    windows: tuple[Window, ...] = ()
    directory: bool = True


NOTHING: Final = Sight(directory=False)
CUSTODIAN: Final = Sight(everything=True)


def of_patient(pseudonym: bytes, scope: Scope = EVERYTHING) -> Sight:
    """The sight of one patient's records within a scope."""
    return Sight(windows=(Window(pseudonym=pseudonym, scope=scope),))
