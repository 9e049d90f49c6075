"""A study's view on its way: the pseudonymised resources, sealed to the researcher's key (RES-1, KEY-2)."""

from collections.abc import Callable, Sequence

import msgspec

from carechain.contracts.access import TicketRow
from carechain.core.codec import Malformed, encode
from carechain.core.hashing import tagged
from carechain.core.rejection import Rejected
from carechain.gatekeeper.codes import GatekeeperCode, Withheld
from carechain.research.pseudonym import Study, View
from carechain.sdk.opening import OpenCode
from carechain.sealing.hpke import CannotOpen, HpkePrivateKey, open_large, seal_large

_views = msgspec.msgpack.Decoder(list[bytes])


def seal_view(
    *,
    chain_id: str,
    ticket_id: bytes,
    ticket: TicketRow,
    bodies: Sequence[bytes],
    study: Study,
    as_of_year: int,
    entropy: Callable[[int], bytes],
) -> bytes:
    """Show ``bodies`` to the study and seal the result to the key that the ticket names.

    A resource that cannot be read as FHIR JSON refuses the whole view: what is not understood is not shown.
    """
    view = View(study=study, patient_key=ticket.pseudonym, custodian=ticket.custodian, as_of_year=as_of_year)
    info = _info(chain_id, ticket_id, ticket.requester)
    try:
        shown = view.show(bodies)
        return seal_large(ticket.hpke_key, info=info, plaintext=encode(shown), entropy=entropy)
    except Malformed:
        raise Withheld(GatekeeperCode.RECORD_ALTERED) from None
    except ValueError:
        raise Withheld(GatekeeperCode.KEY_UNUSABLE) from None


def open_view(
    sealed: bytes, *, chain_id: str, ticket_id: bytes, requester: bytes, private_key: HpkePrivateKey
) -> list[bytes]:
    """The resources of a view, as the researcher gets them; raises ``Rejected`` with an :class:`OpenCode`.

    There is no proof against an anchor here: what was anchored is not what a study may see.
    """
    try:
        return _views.decode(open_large(private_key, info=_info(chain_id, ticket_id, requester), sealed=sealed))
    except CannotOpen:
        raise Rejected(OpenCode.CANNOT_OPEN) from None
    except (msgspec.MsgspecError, RecursionError):
        raise Rejected(OpenCode.NOT_A_PACKAGE) from None


def _info(chain_id: str, ticket_id: bytes, requester: bytes) -> bytes:
    return tagged("carechain/study-view/1", chain_id.encode(), ticket_id, requester)
