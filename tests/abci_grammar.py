"""The specification's grammar of ABCI calls, as a check of recorded sequences.

Goal: what the simulator's engine sends, and what a live one sent, is a legal sequence of ABCI 2.0; so the application
was tested with the calls it may expect, and with nothing else. Method: each call of one run of the engine is a letter;
a regular expression says which words are legal beginnings of a run. Kinds that may come at any time (echo, flush,
check_tx, query, list_snapshots, load_snapshot_chunk, and info once the run has begun) have no letter. Beside the order
of kinds, the heights must follow each other from the one that the application named.

Source: CometBFT's specification, "ABCI 2.0: expected behaviour", valid method call sequences.
"""

import re
from collections.abc import Sequence

from abci_wire import Note

LETTERS = {
    "info": "I",
    "init_chain": "N",
    "offer_snapshot": "O",
    "apply_snapshot_chunk": "A",
    "prepare_proposal": "P",
    "process_proposal": "R",
    "extend_vote": "X",
    "verify_vote_extension": "V",
    "finalize_block": "F",
    "commit": "C",
}
ANY_TIME = frozenset({"echo", "flush", "check_tx", "query", "list_snapshots", "load_snapshot_chunk"})
_STATE_SYNC = "(?:OA*)*OA+I"
# Whoever proposes or not, each of these calls alone is a round, so the rounds of a height are any word over them.
_ROUNDS = "[PRXV]*"
_HEIGHTS = f"(?:{_ROUNDS}FC)*{_ROUNDS}F?"
CLEAN = re.compile(f"(?:(?:IN)|{_STATE_SYNC}){_HEIGHTS}")
RECOVERY = re.compile(f"IN?{_HEIGHTS}")
_BEGINNINGS = re.compile("I?|(?:OA*)*")


class IllegalCalls(AssertionError):  # noqa: N818 - names what was recorded
    """A sequence that the specification does not allow."""


def check(calls: Sequence[Note], *, clean: bool) -> str:
    """Check one run of the engine, cut off wherever it was; ``clean``: neither side had any state before it.

    Returns the run's word. Raises :class:`IllegalCalls`.
    """
    word = word_of(calls)
    grammar = CLEAN if clean else RECOVERY
    if not (grammar.fullmatch(word) or _BEGINNINGS.fullmatch(word)):
        raise IllegalCalls(f"no {'clean start' if clean else 'recovery'} goes like this: {word}")
    _check_heights(calls)
    return word


def word_of(calls: Sequence[Note]) -> str:
    """The letters of a run, without the calls that may come at any time."""
    word = ""
    for call in calls:
        if call.kind in ANY_TIME:
            continue
        letter = LETTERS[call.kind]
        # Later on, ``info`` is some client's question; but it ends a state sync.
        if letter == "I" and word and word[-1] != "A":
            continue
        word += letter
    return word


def _check_heights(calls: Sequence[Note]) -> None:
    """Heights are decided one by one, from the one after the height that the application said it has."""
    height = None
    for call in calls:
        if call.kind == "info" and height is None:
            height = call.answered
        elif call.kind == "apply_snapshot_chunk":
            height = None
        elif call.kind == "init_chain" and height:
            raise IllegalCalls(f"init_chain to an application at height {height}")
        elif call.kind in ("prepare_proposal", "process_proposal", "finalize_block"):
            if height is None or call.height != height + 1:
                raise IllegalCalls(f"{call.kind} of height {call.height} after height {height}")
            height += call.kind == "finalize_block"
