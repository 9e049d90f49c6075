"""Asking a vault for sealed records by tokens, with the index keys that were opened for it."""

from collections.abc import Sequence
from typing import Final

from carechain.chain.questions import AnchorLine
from carechain.cli.doors import Corridor
from carechain.cli.unsealing import Shown, Unsealed
from carechain.sdk.searching import found_among, key_of
from carechain.sealing.blind_index import INDEX_KEY_SIZE, BlindIndex


class Finder:
    """One search: what it found stands in ``found``, newest clinical day first."""

    def __init__(self, shown: Shown, indices: Sequence[AnchorLine], phrase: str, *, url: str) -> None:
        """``url`` is where the custodian's vault answers. Raises ``Rejected`` for words nobody can search for."""
        # Under any key, so that nobody is asked for the real ones in vain.
        BlindIndex(bytes(INDEX_KEY_SIZE)).search_tokens(phrase)
        self._shown = shown
        self._indices = indices
        self._phrase = phrase
        self._url = url
        self.found: Final[list[AnchorLine]] = []

    async def ask(self, doors: Corridor, opened: Sequence[Unsealed]) -> None:
        """Ask with each of the opened index keys; raises ``Rejected``, ``Refused`` and ``OSError``."""
        pseudonym = self._shown.row.pseudonym
        door = await doors.door(self._shown.row.custodian, self._url)
        for index, one in zip(self._indices, opened, strict=True):
            key = BlindIndex(key_of([file.content for file in one.files]))
            named = await door.search(self._shown.ticket, key.search_tokens(self._phrase))
            self.found.extend(found_among(pseudonym, index, named, self._shown.lines))
        self.found.sort(key=lambda line: (-line.anchor.day, line.record))
