"""Refusals of the command line itself: what it will not show or do although a server said yes."""

from carechain.core.rejection import RejectionCode


class CommandCode(RejectionCode):
    """Why a command refuses by itself."""

    NOT_PROVEN = 1401, "The node's answer is not what its signed header commits to. Do not believe it; ask another."
    ERASURE_NOT_CONFIRMED = (
        1402,
        "An erasure cannot be taken back. Look at what would go, then give the command again with --yes.",
    )
