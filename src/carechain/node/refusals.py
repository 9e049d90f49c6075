"""What a node refuses by itself, before or beside the ledger: form, size, pace and names of its HTTP face."""

from typing import Final

from carechain.core.rejection import Rejected, RejectionCode

RETRY_AFTER_S: Final = 1
"""How long a caller is asked to wait when the queue is full: many blocks' worth."""


class NodeCode(RejectionCode):
    """Why a node does not take a request."""

    BODY_TOO_LARGE = 1301, "The body is larger than this node accepts. Send less at once."
    BODY_MALFORMED = 1302, "The body does not have the form this path expects. See the reference."
    MEDIA_TYPE_UNKNOWN = 1303, "Send application/msgpack, application/octet-stream or application/json."
    TOO_MANY_TRANSACTIONS = 1304, "A batch has 1 to 20000 transactions. Send several batches."
    OVERLOADED = 1305, "The node has more waiting than it may hold. Send again after the seconds in Retry-After."
    STOPPING = 1306, "The node is stopping and takes nothing new. Use another node, or wait until it is back."
    TX_UNKNOWN = 1307, "No transaction with this id is on the ledger."
    BLOCK_UNKNOWN = 1308, "There is no block at this height."
    PATH_UNKNOWN = 1309, "No such path. See the reference."
    METHOD_NOT_ALLOWED = 1310, "This path is used with another method. See the reference."
    PARAMETER_MALFORMED = 1311, "A parameter in the address does not have the expected form. See the reference."
    TOO_MANY_STREAMS = 1312, "Too many event streams are open. Close some, or come back later."
    FELL_BEHIND = 1313, "You read more slowly than blocks come. Connect again from the height given."
    TOO_MANY_OWN_STREAMS = 1314, "You have as many event streams open as one party may. Close one first."
    CLOCK_JUMPED = (
        1315,
        "The node's clock jumped ahead, so it makes no blocks. Use another node, or wait until an operator has looked.",
    )
    NOT_EXECUTABLE = (
        1316,
        "The node failed over this transaction and left it out: an error in the program. Tell its id to the operator.",
    )
    NO_BLOCK_YET = 1317, "The node has no block yet to prove anything by. Ask again in a moment."
    NO_COMMITS = 1318, "This network's blocks are signed by a producer: there is no commit to verify."
    ENGINE_AWAY = (
        1319,
        "The node's consensus engine is being started again. Ask again in a moment, or ask another node.",
    )
    PROOF_IS_NOT_YOURS = 1320, "A proof shows the transaction whole, which only its signer and regulators may see."


class Overloaded(Rejected):
    """Back-pressure: nothing was taken, and the caller may send the same bytes again after ``retry_after_s``."""

    def __init__(self, code: NodeCode = NodeCode.OVERLOADED, *, retry_after_s: int = RETRY_AFTER_S) -> None:
        super().__init__(code)
        self.retry_after_s = retry_after_s
