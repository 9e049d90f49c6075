"""Keyring, accusations: a holder that answers a ticket with a share that does not hold is named on the ledger."""

from typing import Protocol

from carechain.contracts.keyring.schema import (
    Accuse,
    HolderCaught,
    KeyringCode,
    KeyringTables,
    Misdeed,
    MisdeedRow,
)
from carechain.core.context import Ctx
from carechain.core.crypto import BadSignature, verify
from carechain.core.party import Party
from carechain.core.quorum import BadProof, ShareStatement, check_statement, statement_bytes
from carechain.core.rejection import Rejected, present, require


class Members(Protocol):
    """What this contract needs from membership."""

    def party(self, party: bytes) -> Party | None:
        """The party with this id."""


def accuse(ctx: Ctx, tables: KeyringTables, members: Members, msg: Accuse) -> None:
    """Record a holder's wrong share. It signed the share itself, so whoever shows it need not be believed.

    One proof for each epoch is enough; the ticket is named, and neither the record nor who asked.
    """
    share = msg.statement.share
    key = present(tables.key_at(share.epoch), KeyringCode.HOLDER_UNKNOWN)
    holder = present(key.numbered(share.index), KeyringCode.HOLDER_UNKNOWN)
    party = present(members.party(holder.party), KeyringCode.HOLDER_UNKNOWN)
    try:
        verify(
            suite=party.suite,
            public_key=party.public_key,
            signature=msg.signature,
            message=statement_bytes(ctx.chain_id, msg.statement),
        )
    except BadSignature:
        raise Rejected(KeyringCode.STATEMENT_NOT_SIGNED) from None
    require(not _holds(ctx.chain_id, msg.statement, holder.key), KeyringCode.SHARE_IS_SOUND)
    known = tables.misdeeds.has(holder.party, share.epoch, Misdeed.BAD_SHARE)
    require(not known, KeyringCode.ALREADY_CAUGHT)
    row = MisdeedRow(about=msg.statement.ticket, at_s=ctx.time_s, height=ctx.height)
    tables.misdeeds.put(holder.party, share.epoch, Misdeed.BAD_SHARE, row=row)
    ctx.emit(HolderCaught(holder=holder.party, epoch=share.epoch, ticket=msg.statement.ticket))


def _holds(chain_id: str, statement: ShareStatement, holder_key: bytes) -> bool:
    try:
        check_statement(chain_id, statement, holder_key=holder_key)
    except BadProof:
        return False
    return True
