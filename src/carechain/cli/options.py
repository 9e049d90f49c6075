"""Options that several commands share: who acts, with which password, and where the servers are."""

from pathlib import Path
from typing import Annotated, Final

import typer

PASSWORD_VARIABLE: Final = "CARECHAIN_PASSWORD_FILE"  # noqa: S105 - the name of a variable that names a file
NODE_VARIABLE: Final = "CARECHAIN_NODE"
GATEKEEPER_VARIABLE: Final = "CARECHAIN_GATEKEEPER"

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
    str | None,
    typer.Option(
        "--node", envvar=NODE_VARIABLE, show_envvar=False, metavar="URL", help="The node; this home's own unless given."
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
