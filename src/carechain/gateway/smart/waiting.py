"""What is under way between an app, a browser and an approver: in memory, short-lived, bounded, and used once.

A restart forgets it, and then the app starts again: nothing was given yet. Time is an argument.
"""

import threading
from collections import OrderedDict
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from carechain.core.rejection import Rejected, require
from carechain.gateway.clients import Authorisation, hash_of
from carechain.gateway.codes import SmartCode

ASKING: Final = 1_000
"""Apps that wait for an approval at the same time."""
ASKING_PER_APP: Final = 100
ASKING_S: Final = 600
LAUNCHES: Final = 1_000
LAUNCH_S: Final = 300
CODES: Final = 1_000
USED_CODE_S: Final = 600
"""How long a used code is remembered, so that its second use is noticed."""


class Asked(Struct, frozen=True, kw_only=True):
    """An app's request that waits for somebody to approve it. ``handle`` is the browser's secret, ``code`` is shown."""

    handle: str
    code: str
    client_id: str
    redirect: str
    state: str
    scopes: tuple[str, ...]
    challenge: str
    nonce: str
    until_s: int
    authorisation: Authorisation | None = None
    denied: bool = False


class Launch(Struct, frozen=True, kw_only=True):
    """A clinician's start of an app out of another system, with the tickets it may use."""

    client_id: str
    party: bytes
    tickets: tuple[bytes, ...]
    until_s: int


class Coded(Struct, frozen=True, kw_only=True):
    """What an authorisation code stands for, until it is used."""

    authorisation: Authorisation
    redirect: str
    challenge: str
    nonce: str
    until_s: int
    used: bool = False


class Waiting:
    """The book of all three."""

    def __init__(self) -> None:
        """Start empty."""
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._handles: dict[str, str] = {}
        self._launches: OrderedDict[bytes, Launch] = OrderedDict()
        self._codes: OrderedDict[bytes, Coded] = OrderedDict()
        # Codes are used in the thread of the token endpoint, everything else on the event loop.
        self._lock = threading.Lock()

    # --- requests -----------------------------------------------------------------------------------------

    def ask(self, asked: Asked, now_s: int) -> None:
        """Let a request wait; raises ``Rejected`` when too many do."""
        self._forget_asked(now_s)
        require(len(self._asked) < ASKING and asked.code not in self._asked, SmartCode.BUSY)
        own = sum(1 for one in self._asked.values() if one.client_id == asked.client_id)
        require(own < ASKING_PER_APP, SmartCode.BUSY)
        self._asked[asked.code] = asked
        self._handles[asked.handle] = asked.code

    def asked(self, code: str, now_s: int) -> Asked:
        """The request under a shown code, while nobody has answered it; raises ``Rejected``."""
        found = self._asked.get(code)
        if found is None or now_s >= found.until_s or found.denied or found.authorisation is not None:
            raise Rejected(SmartCode.APPROVAL_UNKNOWN)
        return found

    def answer(self, code: str, authorisation: Authorisation | None, now_s: int) -> None:
        """Approve or, with None, deny; raises ``Rejected``."""
        found = self.asked(code, now_s)
        self._asked[code] = replace(found, authorisation=authorisation, denied=authorisation is None)

    def look(self, handle: str, now_s: int) -> Asked:
        """The request of a browser; raises ``Rejected``."""
        found = self._asked.get(self._handles.get(handle, ""))
        if found is None or now_s >= found.until_s:
            raise Rejected(SmartCode.APPROVAL_UNKNOWN)
        return found

    def take(self, asked: Asked) -> None:
        """The request has been answered to its browser: it is over."""
        self._asked.pop(asked.code, None)
        self._handles.pop(asked.handle, None)

    def _forget_asked(self, now_s: int) -> None:
        while self._asked:
            first = next(iter(self._asked.values()))
            if now_s < first.until_s:
                break
            self.take(first)

    # --- launches -----------------------------------------------------------------------------------------

    def add_launch(self, launch: str, what: Launch, now_s: int) -> None:
        """Keep a launch until it is used; the oldest gives way to the newest."""
        while self._launches and (
            len(self._launches) >= LAUNCHES or next(iter(self._launches.values())).until_s <= now_s
        ):
            self._launches.popitem(last=False)
        self._launches[hash_of(launch)] = what

    def take_launch(self, launch: str, client_id: str, now_s: int) -> Launch:
        """The launch, once; raises ``Rejected``. Another app's stays what it is."""
        found = self._launches.get(hash_of(launch))
        if found is None or found.client_id != client_id or now_s >= found.until_s:
            raise Rejected(SmartCode.LAUNCH_INVALID)
        del self._launches[hash_of(launch)]
        return found

    # --- codes --------------------------------------------------------------------------------------------

    def add_code(self, code: str, what: Coded, now_s: int) -> None:
        """Keep a code; the oldest gives way when there are too many."""
        with self._lock:
            while self._codes:
                first = next(iter(self._codes.values()))
                if len(self._codes) < CODES and now_s < first.until_s + USED_CODE_S:
                    break
                self._codes.popitem(last=False)
            self._codes[hash_of(code)] = what

    def take_code(self, code: str) -> Coded | None:
        """What a code stands for, as it was before this use; from now on it is used."""
        key = hash_of(code)
        with self._lock:
            found = self._codes.get(key)
            if found is not None:
                self._codes[key] = replace(found, used=True)
        return found
