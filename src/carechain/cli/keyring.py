"""The keys of one home: encrypted key files by name, their passwords, and the local address book.

A home belongs to one organisation, or to one patient. Key files have the format of ``docs/internals/keys.md``. The
address book (``book.json``, mode 0600) gives names to party ids so that nobody has to type them; it is local, like
an organisation's own directory, and never holds a patient.
"""

import os
import re
import secrets
import stat
import sys
from pathlib import Path
from typing import Final

import msgspec
import typer
from msgspec import Struct

from carechain.cli.output import CannotRun
from carechain.cli.terms import identifier
from carechain.core.crypto import SigningKey, Suite
from carechain.core.limits import ID_SIZE
from carechain.core.vocabulary import PartyKind
from carechain.sdk.certificates import CertificateAuthority
from carechain.sdk.identity import Identity, new_identity
from carechain.sdk.keyfile import is_open_to_others, read_bounded, write_private_file
from carechain.sdk.registrar import RegistrarSecret
from carechain.sdk.wallet import Pseudonym, Relation, Wallet, new_wallet
from carechain.sealing.hpke import HpkePrivateKey

KEYS_FOLDER: Final = "keys"
BOOK_FILE: Final = "book.json"
MEMBER_KEY: Final = "member"
AUTHORITY_KEY: Final = "authority"
WALLET: Final = "wallet"
"""The kind of a patient's key file."""
REGISTRAR_SECRET: Final = "registrar.secret"  # noqa: S105 - a file's name
_PASSWORD_BYTES: Final = 4096
_NAME: Final = re.compile(r"[^\W_][\w.-]{0,63}")


class Actor(Struct, frozen=True, kw_only=True):
    """Whoever signs: a party and its two keys. A patient is an actor under one pseudonym at a time."""

    party: bytes
    organisation: bytes
    signing: SigningKey
    hpke: HpkePrivateKey

    @staticmethod
    def of_identity(identity: Identity) -> "Actor":
        """A member, one of its staff, or a representative."""
        return Actor(
            party=identity.party,
            organisation=identity.organisation,
            signing=identity.signing_key(),
            hpke=identity.hpke_key(),
        )

    @staticmethod
    def of_pseudonym(pseudonym: Pseudonym) -> "Actor":
        """A patient toward one organisation."""
        return Actor(
            party=pseudonym.id,
            organisation=pseudonym.organisation,
            signing=pseudonym.signing,
            hpke=pseudonym.hpke,
        )


class KeyFile(Struct, frozen=True, kw_only=True):
    """A key file as a listing shows it. ``party`` is known for the names in the address book."""

    name: str
    kind: str
    party: bytes | None


class _Kind(Struct, frozen=True):
    """The one field of a key file that a listing reads."""

    kind: str


class Keyring:
    """The key files below one home folder, and the names it gives to parties."""

    __slots__ = ("_home", "_passwords")

    def __init__(self, home: Path) -> None:
        self._home = home
        self._passwords: dict[Path | None, str] = {}

    @property
    def folder(self) -> Path:
        """Where the key files are."""
        return self._home / KEYS_FOLDER

    def prepare(self) -> None:
        """Make the folder, readable by its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path_of(self, name: str) -> Path:
        """The file of a key: a name inside this home, or a path as it is."""
        if os.sep in name or name.endswith(".json"):
            return Path(name).expanduser()
        if not _NAME.fullmatch(name):
            raise typer.BadParameter("a key's name has up to 64 letters, digits, `.`, `-` or `_`")
        return self.folder / f"{name}.json"

    # --- passwords ----------------------------------------------------------------------------------------

    def password(self, file: Path | None, *, confirm: bool = False) -> str:
        """The password from a file, or typed by somebody at a terminal; asked for once per command."""
        if file not in self._passwords:
            self._passwords[file] = _read_password(file) if file is not None else _ask_password(confirm=confirm)
        return self._passwords[file]

    # --- opening ------------------------------------------------------------------------------------------

    def identity(self, name: str, password: str) -> Identity:
        """An identity by name or path."""
        return Identity.load(self._existing(name), password=password)

    def authority(self, password: str) -> CertificateAuthority:
        """The organisation's certificate authority."""
        return CertificateAuthority.load(self._existing(AUTHORITY_KEY), password=password)

    def registrar_secret(self) -> RegistrarSecret:
        """The registrar's secret, or the reason why this home is no registrar's."""
        path = self.folder / REGISTRAR_SECRET
        if not path.exists():
            raise CannotRun(f"{path} is missing: this home does not hold a registrar's secret")
        return RegistrarSecret.load(path)

    def wallet(self, name: str | None, password: str) -> tuple[str, Wallet]:
        """A wallet by name or path, or the only one of this home; with the name it was found under."""
        chosen = name or self.only_wallet()
        if self.kind_of(chosen) != WALLET:
            raise typer.BadParameter(f"{chosen} is not a wallet; name the patient's", param_hint="--as")
        return chosen, Wallet.load(self._existing(chosen), password=password)

    def relation(self, wallet: Wallet, organisation: bytes | None) -> Relation:
        """The wallet's newest relationship with an organisation, or its only one."""
        found = wallet.relations if organisation is None else wallet.at(organisation)
        if not found:
            raise CannotRun("the wallet has no such relationship yet: register it with `carechain patient register`")
        if organisation is None and len(found) > 1:
            raise typer.BadParameter("the wallet has several relationships; say which", param_hint="--at")
        return found[-1]

    def kind_of(self, name: str) -> str:
        """``wallet``, ``identity`` or ``authority``, read without a password."""
        try:
            return msgspec.json.decode(read_bounded(self._existing(name)), type=_Kind).kind
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise CannotRun(f"{self.path_of(name)} is not a key file") from None

    def only_wallet(self) -> str:
        """The name of the only wallet here."""
        wallets = [one.name for one in self.listing() if one.kind == WALLET]
        if len(wallets) != 1:
            problem = "this home holds several wallets" if wallets else "this home holds no wallet"
            raise typer.BadParameter(f"{problem}; name one", param_hint="--as")
        return wallets[0]

    def listing(self) -> list[KeyFile]:
        """Every key file of this home by name."""
        book = self.book()
        if not self.folder.is_dir():
            return []
        return [
            KeyFile(name=path.stem, kind=self.kind_of(path.stem), party=book.get(path.stem))
            for path in sorted(self.folder.glob("*.json"))
        ]

    def _existing(self, name: str) -> Path:
        path = self.path_of(name)
        if not path.is_file():
            raise CannotRun(f"no key file {path}: see `carechain keys list`, or make one with `carechain keys new`")
        return path

    # --- making -------------------------------------------------------------------------------------------

    def add_identity(
        self,
        name: str,
        *,
        kind: PartyKind,
        organisation: bytes | None,
        password: str,
        label: str = "",
        suite: Suite = Suite.ED25519,
    ) -> Identity:
        """New keys under a name that is not taken, entered into the address book."""
        self.prepare()
        identity = new_identity(
            kind=kind, entropy=secrets.token_bytes, organisation=organisation, label=label, suite=suite
        )
        identity.save(self.path_of(name), password=password, entropy=secrets.token_bytes)
        self.note(name, identity.party)
        return identity

    def add_wallet(self, name: str, *, chain_id: str, password: str, suite: Suite = Suite.ED25519) -> Wallet:
        """A new, empty wallet under a name that is not taken."""
        self.prepare()
        wallet = new_wallet(chain_id=chain_id, entropy=secrets.token_bytes, suite=suite)
        wallet.save(self.path_of(name), password=password, entropy=secrets.token_bytes)
        return wallet

    def keep_wallet(self, name: str, wallet: Wallet, *, password: str) -> None:
        """Save a changed wallet over its former self."""
        wallet.save(self.path_of(name), password=password, entropy=secrets.token_bytes, replace_existing=True)

    # --- the address book ---------------------------------------------------------------------------------

    def book(self) -> dict[str, bytes]:
        """Party ids by name."""
        path = self._home / BOOK_FILE
        if not path.exists():
            return {}
        try:
            held = msgspec.json.decode(read_bounded(path), type=dict[str, str])
            return {name: bytes.fromhex(value) for name, value in held.items()}
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            raise CannotRun(f"{path} is damaged: correct it or remove it") from None

    def note(self, name: str, party: bytes) -> None:
        """Give a party a name in this home."""
        book = {**self.book(), name: party}
        text = msgspec.json.format(msgspec.json.encode({one: book[one].hex() for one in sorted(book)}), indent=2)
        write_private_file(self._home / BOOK_FILE, text + b"\n", replace=True)

    def party(self, text: str, *, hint: str) -> bytes:
        """A party id from a name of the address book or from 64 hexadecimal digits."""
        known = self.book().get(text)
        if known is not None:
            return known
        if len(text) == 2 * ID_SIZE:
            return identifier(text)
        raise typer.BadParameter(
            f"{text!r} is neither an id of 64 hexadecimal digits nor a name of this home's address book; "
            "note one with `carechain keys name NAME ID`",
            param_hint=hint,
        )

    def name_of(self, party: bytes) -> str:
        """The local name of a party, else its id."""
        for name, known in self.book().items():
            if known == party:
                return name
        return party.hex()


def _read_password(file: Path) -> str:
    with file.expanduser().open("rb") as stream:
        mode = os.fstat(stream.fileno()).st_mode
        data = stream.read(_PASSWORD_BYTES + 1)
    if stat.S_ISREG(mode) and is_open_to_others(mode):
        raise CannotRun(f"others can read {file}: set its mode to 0600")
    if len(data) > _PASSWORD_BYTES:
        raise CannotRun(f"{file} is too large to be a password")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise CannotRun(f"{file} is not UTF-8 text") from None


def _ask_password(*, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody is there to ask for the password; give a file", param_hint="--password-file")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True))
