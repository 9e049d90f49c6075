"""Options that several commands share: who acts, with which password, and where the servers are.

Options that belong together are a group: a command takes the group as one parameter, and
:func:`carechain.cli.output.command` spreads it over the command line.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from carechain.cli.output import OptionGroup

PASSWORD_VARIABLE: Final = "CARECHAIN_PASSWORD_FILE"  # noqa: S105 - the name of a variable that names a file
NODE_VARIABLE: Final = "CARECHAIN_NODE"
NODES_VARIABLE: Final = "CARECHAIN_NODES"
CA_VARIABLE: Final = "CARECHAIN_CA"
GATEKEEPER_VARIABLE: Final = "CARECHAIN_GATEKEEPER"


class SuiteName(StrEnum):
    """What a network's organisations sign, hash and encrypt with."""

    INTERNATIONAL = "international"
    SM = "sm"


class KeySuite(StrEnum):
    """What a key signs with."""

    ED25519 = "ed25519"
    P256 = "p256"
    SM2 = "sm2"


PasswordOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        envvar=PASSWORD_VARIABLE,
        show_envvar=False,
        metavar="FILE",
        help="File with the password of the key files (mode 0600); asked for when a terminal is there.",
    ),
]
WalletPasswordOption = Annotated[
    Path | None,
    typer.Option("--wallet-password-file", metavar="FILE", help="The wallet's password, where it is another one."),
]
AsOption = Annotated[
    str | None, typer.Option("--as", metavar="KEY", help="Who acts: a key of this home by name, or a key file's path.")
]
WalletOption = Annotated[
    str | None,
    typer.Option("--as", metavar="WALLET", help="The patient's wallet: a name or a path. The only one unless given."),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="ORGANISATION", help="At which organisation, where the wallet has several relationships."
    ),
]
PatientOption = Annotated[
    str | None, typer.Option("--patient", metavar="PSEUDONYM", help="The patient, when somebody else acts.")
]
NodeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--node",
        envvar=[NODES_VARIABLE, NODE_VARIABLE],
        show_envvar=False,
        metavar="URL",
        help="The organisation's node, this home's own unless given; may be repeated, and another organisation's "
        "to fall back on is ORGANISATION=URL.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar=CA_VARIABLE,
        show_envvar=False,
        metavar="FILE",
        help="Authorities (PEM) to believe besides those of the network's founders.",
    ),
]
GatekeeperOption = Annotated[
    str | None,
    typer.Option(
        "--gatekeeper",
        envvar=GATEKEEPER_VARIABLE,
        show_envvar=False,
        metavar="URL",
        help="The custodian's gatekeeper; this home's own unless given.",
    ),
]


class ByOrganisation(OptionGroup, frozen=True):
    """An organisation's key, or one of its staff: the member's own key unless another is named."""

    who: AsOption = None
    password_file: PasswordOption = None
    node: NodeOption = None
    ca: CaOption = None


class ByPatient(OptionGroup, frozen=True):
    """A patient's wallet, under one of its pseudonyms."""

    who: WalletOption = None
    at: AtOption = None
    password_file: PasswordOption = None
    node: NodeOption = None
    ca: CaOption = None


class ByAnyone(OptionGroup, frozen=True):
    """Any key of this home: the member's own, or a wallet where there is no member."""

    who: AsOption = None
    at: AtOption = None
    password_file: PasswordOption = None
    node: NodeOption = None
    ca: CaOption = None
