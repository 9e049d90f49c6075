"""Keyring, accusations: a holder that answers a ticket with a share that does not hold is named on the ledger."""

from collections.abc import Iterable
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
from carechain.core.limits import FORMER_KEYS_S
from carechain.core.quorum import BadProof, ShareStatement, check_statement, statement_bytes
from carechain.core.rejection import present, require


class Members(Protocol):
    """What this contract needs from membership."""

    def keys_since(self, party: bytes, time_s: int) -> tuple[tuple[int, bytes], ...]:
        """Suite and public key of every key that the party has had since then, the present one first."""


class Tickets(Protocol):
    """What this contract needs from access."""

    def decided_s(self, ticket: bytes) -> int | None:
        """When the ledger decided on a request; None where there is no such ticket."""


def accuse(ctx: Ctx, tables: KeyringTables, members: Members, tickets: Tickets, msg: Accuse) -> None:
    """Record a holder's wrong share. It signed the share itself, so whoever shows it need not be believed.

    A key that the holder had when the ticket was given counts too, for some days: changing it is no way out. One proof
    for each epoch is enough; the ticket is named, and neither the record nor who asked.
    """
    share = msg.statement.share
    key = present(tables.key_at(share.epoch), KeyringCode.HOLDER_UNKNOWN)
    holder = present(key.numbered(share.index), KeyringCode.HOLDER_UNKNOWN)
    decided_s = tickets.decided_s(msg.statement.ticket)
    # Nothing of an epoch was signed before it began; and a key that was given up, because it was stolen perhaps,
    # must not convict for ever.
    since_s = ctx.time_s if decided_s is None else max(decided_s, key.since_s, ctx.time_s - FORMER_KEYS_S)
    keys = members.keys_since(holder.party, since_s)
    require(_signed(keys, msg, statement_bytes(ctx.chain_id, msg.statement)), KeyringCode.STATEMENT_NOT_SIGNED)
    require(not _holds(ctx.chain_id, msg.statement, holder.key), KeyringCode.SHARE_IS_SOUND)
    known = tables.misdeeds.has(holder.party, share.epoch, Misdeed.BAD_SHARE)
    require(not known, KeyringCode.ALREADY_CAUGHT)
    row = MisdeedRow(about=msg.statement.ticket, at_s=ctx.time_s, height=ctx.height)
    tables.misdeeds.put(holder.party, share.epoch, Misdeed.BAD_SHARE, row=row)
    ctx.emit(HolderCaught(holder=holder.party, epoch=share.epoch, ticket=msg.statement.ticket))


def _signed(keys: Iterable[tuple[int, bytes]], msg: Accuse, message: bytes) -> bool:
    for suite, public_key in keys:
        try:
            verify(suite=suite, public_key=public_key, signature=msg.signature, message=message)
        except BadSignature:
            continue
        return True
    return False


def _holds(chain_id: str, statement: ShareStatement, holder_key: bytes) -> bool:
    try:
        check_statement(chain_id, statement, holder_key=holder_key)
    except BadProof:
        return False
    return True
