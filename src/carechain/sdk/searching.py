"""Searching sealed records: the words of what is sealed, the keys they are found by, and where those keys lie (KEY-4).

Whoever seals takes the **words** out of the content (:func:`texts_of`), makes tokens of them under the index key of the
patient, category and grade, and gives only the tokens to the vault. The index key follows from a secret of the writing
organisation (:class:`IndexSecret`), and is itself sealed as a record of that category and grade. Its salt follows from
the same secret, so its root does too: whoever has the secret sees on the ledger whether an index is its own, without
opening anything.

Whoever searches finds the index keys among the records that the ticket covers (:func:`index_lines`), opens them like
any other record, and asks with :meth:`~carechain.sealing.blind_index.BlindIndex.search_tokens`.
"""

import base64
import binascii
import hmac
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import msgspec

from carechain.chain.questions import AnchorLine
from carechain.core import merkle
from carechain.core.commitment import resource_leaf
from carechain.core.hashing import tagged
from carechain.core.limits import BUNDLE_NESTING
from carechain.core.rejection import Rejected, RejectionCode, require
from carechain.core.suite import Institution
from carechain.core.vocabulary import Category, Sensitivity
from carechain.sdk.keyfile import Entropy, is_open_to_others, write_private_file
from carechain.sealing.blind_index import INDEX_KEY_SIZE, INDEX_SECRET_SIZE, index_key, index_record_id

TEXT_KEYS: Final = frozenset(
    {
        "caption",
        "comment",
        "conclusion",
        "description",
        "display",
        "label",
        "patientInstruction",
        "summary",
        "text",
        "title",
        "valueMarkdown",
        "valueString",
    }
)
"""FHIR elements that people write for people."""
_SKIPPED: Final = frozenset(
    {"address", "contact", "extension", "id", "identifier", "meta", "modifierExtension", "name", "photo", "telecom"}
)
"""Never looked into: ids, where people live and are called, and what programs say to programs."""
_OF_PEOPLE: Final = frozenset(
    {
        "CareTeam",
        "Device",
        "Group",
        "Location",
        "Organization",
        "Patient",
        "Person",
        "Practitioner",
        "PractitionerRole",
        "RelatedPerson",
    }
)
"""What a reference to one of these shows is a name, and no word of the record."""
_LOCAL_REFERENCE: Final = re.compile(
    r"(?:.*/)?(?P<type>[A-Z][A-Za-z]+)/[A-Za-z0-9.\-]{1,64}(?:/_history/.*)?", re.DOTALL
)
_SPAN_TAGS: Final = frozenset(
    {"a", "abbr", "b", "bdo", "big", "cite", "code", "em", "font", "i", "q", "small", "span", "strong", "sub", "sup"}
)
"""Markup inside a word: what it encloses is not cut off from what stands around it."""
_UNREAD_TAGS: Final = frozenset({"script", "style"})
_SECRET_FILE_BYTES: Final = 2 * INDEX_SECRET_SIZE + 2


class SearchCode(RejectionCode):
    """Why the secret of an organisation's index is not used, or nothing can be searched."""

    SECRET_DAMAGED = 1161, "The index secret's file must hold 64 hexadecimal digits. Restore it from a backup."
    SECRET_OPEN_TO_OTHERS = 1162, "Others can read the index secret's file. Set its mode to 0600."
    NO_INDEX = (
        1163,
        "The ticket covers no index key: nothing is indexed, or the ticket is limited to days or records. Ask for all.",
    )
    INDEX_UNSOUND = 1164, "What was sealed as an index key is none. Report who wrote it."


# --- the organisation's secret --------------------------------------------------------------------------


class IndexSecret:
    """The 32 bytes from which an organisation's index keys follow; never printed, never on the ledger."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Raises ``ValueError`` when it is not 32 bytes."""
        if len(secret) != INDEX_SECRET_SIZE:
            raise ValueError("an index secret has 32 bytes")
        self._secret = secret

    @staticmethod
    def load_or_create(path: Path, *, entropy: Entropy) -> "IndexSecret":
        """The secret in the file (64 hexadecimal digits, mode 0600), which is made at the first use.

        Raises ``Rejected`` (``SECRET_DAMAGED``, ``SECRET_OPEN_TO_OTHERS``) and ``OSError``.
        """
        if not path.exists():
            try:
                write_private_file(path, entropy(INDEX_SECRET_SIZE).hex().encode("ascii") + b"\n", replace=False)
            except Rejected:
                # Another process made it in this moment: that one counts.
                require(path.exists(), SearchCode.SECRET_DAMAGED)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_SECRET_FILE_BYTES + 1)
        require(not is_open_to_others(mode), SearchCode.SECRET_OPEN_TO_OTHERS)
        require(re.fullmatch(rb"[0-9a-f]{64}(\r?\n)?", text), SearchCode.SECRET_DAMAGED)
        return IndexSecret(bytes.fromhex(text.decode("ascii")))

    def index(
        self, *, chain_id: str, pseudonym: bytes, category: Category, sensitivity: Sensitivity
    ) -> tuple[bytes, bytes]:
        """The salt and the content of the record that holds the index key: both follow from the secret."""
        key = index_key(
            self._secret, chain_id=chain_id, pseudonym=pseudonym, category=category, sensitivity=sensitivity
        )
        return hmac.digest(self._secret, tagged("carechain/index-salt/1", key), "sha256"), key

    def fingerprint(self, *parts: bytes) -> bytes:
        """32 bytes by which the same thing is known again here, and from which nobody else can tell what it was."""
        return hmac.digest(self._secret, tagged("carechain/sealed-once/1", *parts), "sha256")

    def __repr__(self) -> str:
        return "IndexSecret(…)"


def index_root(salt: bytes, key: bytes, institution: Institution) -> bytes:
    """The root that the ledger has for the record with this index key."""
    return merkle.root([resource_leaf(salt, key, institution)])


# --- where index keys lie -------------------------------------------------------------------------------


def is_index(pseudonym: bytes, line: AnchorLine) -> bool:
    """Whether this record holds an index key, and nothing for people."""
    return line.record == index_record_id(pseudonym, line.anchor.category, line.anchor.sensitivity)


def index_lines(pseudonym: bytes, lines: Iterable[AnchorLine]) -> list[AnchorLine]:
    """The records among ``lines`` (the newest version of each) that hold index keys."""
    return [line for line in lines if is_index(pseudonym, line)]


def key_of(resources: Sequence[bytes]) -> bytes:
    """The index key in an opened record; raises ``Rejected(INDEX_UNSOUND)``."""
    require(len(resources) == 1 and len(resources[0]) == INDEX_KEY_SIZE, SearchCode.INDEX_UNSOUND)
    return resources[0]


def found_among(
    pseudonym: bytes, index: AnchorLine, found: Iterable[bytes], lines: Iterable[AnchorLine]
) -> list[AnchorLine]:
    """The records that a vault named, as far as the ledger shows them in the category and grade of this index key.

    A vault may name what it likes; what is not on the ledger in that place is left out.
    """
    wanted = set(found)
    place = (index.anchor.category, index.anchor.sensitivity)
    return [
        line
        for line in lines
        if line.record in wanted
        and (line.anchor.category, line.anchor.sensitivity) == place
        and not is_index(pseudonym, line)
    ]


# --- words ----------------------------------------------------------------------------------------------


def texts_of(content: bytes) -> list[str]:
    """The texts by which a resource can be found: of FHIR JSON what people wrote, of a text file everything.

    Ids, identifiers, references, addresses and names of people are left out. Of anything else, such as an image,
    there are none. Never raises.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return []
    if "\0" in text:
        return []
    try:
        tree = msgspec.json.decode(content)
    except (msgspec.MsgspecError, RecursionError):
        return [text]
    return list(_texts(tree, 0)) if isinstance(tree, dict | list) else [text]


def plain_text(markup: str) -> str:
    """A narrative (XHTML) as the words in it."""
    stripper = _Stripper()
    stripper.feed(markup)
    stripper.close()
    return "".join(stripper.parts)


class _Stripper(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the library's
        self._unread += tag in _UNREAD_TAGS
        self._cut(tag)

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag in _UNREAD_TAGS and self._unread > 0
        self._cut(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the library's
        self._cut(tag)

    def handle_data(self, data: str) -> None:
        if not self._unread:
            self.parts.append(data)

    def _cut(self, tag: str) -> None:
        if tag not in _SPAN_TAGS:
            self.parts.append("\n")


def _texts(node: Any, depth: int) -> Iterator[str]:  # noqa: ANN401 - JSON can be anything
    if depth > BUNDLE_NESTING:
        return
    if isinstance(node, list):
        for one in node:
            yield from _texts(one, depth + 1)
        return
    if not isinstance(node, dict) or _names_somebody(node):
        return
    if isinstance(node.get("data"), str) and str(node.get("contentType", "")).startswith("text/"):
        yield from _attached(node)
    for key, value in node.items():
        if key in _SKIPPED:
            continue
        if isinstance(value, str):
            yield from _text(node, key, value)
        else:
            yield from _texts(value, depth + 1)


def _text(node: dict[str, Any], key: str, value: str) -> Iterator[str]:
    if key == "div":
        yield plain_text(value)
    elif key in TEXT_KEYS or (key == "code" and ("system" in node or "display" in node)):
        # The code of a coding is a word of its code system; any other `code` is FHIR's own.
        yield value


def _names_somebody(node: dict[str, Any]) -> bool:
    """Whether this is a reference whose display is a name, or may be one."""
    reference = node.get("reference")
    if not isinstance(reference, str):
        return False
    found = _LOCAL_REFERENCE.fullmatch(reference)
    kind = node.get("type") if found is None else found["type"]
    return not isinstance(kind, str) or kind in _OF_PEOPLE


def _attached(node: dict[str, Any]) -> Iterator[str]:
    """An attachment that is text: a note, say."""
    try:
        text = base64.b64decode(node["data"], validate=True).decode()
    except (binascii.Error, ValueError):
        return
    is_markup = str(node["contentType"]).startswith(("text/html", "text/xml"))
    yield plain_text(text) if is_markup else text
