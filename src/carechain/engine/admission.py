"""Admission of many transactions at once, their signatures verified by the worker process.

The queue of the embedded engine works like this: :meth:`Admission.submit` looks at form, expiry, replay and signer
and sends the signatures off; :meth:`Admission.collect` gives the verdicts. Whatever passed is remembered, so
executing the block verifies nothing again. The signer's key is looked up once more at execution: if it
was rotated meanwhile, the memory does not apply.
"""

from collections.abc import Sequence

from msgspec import Struct

from carechain.chain.signatures import fingerprint
from carechain.chain.transition import admit_form
from carechain.chain.tx import SIGNING_DOMAIN, AdmissionCode, Tx, parse
from carechain.core.rejection import Rejected, RejectionCode
from carechain.engine.session import Session
from carechain.engine.verifier import Check, VerifierProcess

Verdict = Tx | RejectionCode
"""The decoded transaction if it may be queued, else why not."""


class _Batch(Struct):
    """One call's transactions on their way: verdicts by place, and which places wait for which signature."""

    verdicts: list[Verdict]
    places: list[int]
    checks: list[Check]


class Admission:
    """Checks transactions against the session's committed state. Single-threaded."""

    __slots__ = ("_batches", "_session", "_verifier")

    def __init__(self, session: Session, verifier: VerifierProcess) -> None:
        """Both stay the caller's to close."""
        self._session = session
        self._verifier = verifier
        self._batches: dict[int, _Batch] = {}

    @property
    def pending(self) -> int:
        """How many batches are on their way."""
        return len(self._batches)

    def submit(self, raws: Sequence[bytes], *, time_s: int) -> int:
        """Begin to check ``raws`` as of ``time_s``; returns the number under which :meth:`collect` answers.

        The answer may be there at once: collect after submitting.
        """
        ledger = self._session.ledger()
        verdicts: list[Verdict] = []
        places: list[int] = []
        checks: list[Check] = []
        for place, raw in enumerate(raws):
            try:
                tx = parse(raw)
                party = admit_form(ledger, tx, time_s)
            except Rejected as refused:
                verdicts.append(refused.code)
                continue
            verdicts.append(tx)
            places.append(place)
            checks.append(Check(party.suite, party.public_key, tx.signature, SIGNING_DOMAIN + tx.body_bytes))
        number = self._verifier.submit(checks)
        self._batches[number] = _Batch(verdicts, places, checks)
        return number

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to collect."""
        return self._verifier.fileno()

    def collect(self) -> list[tuple[int, list[Verdict]]]:
        """Finished batches as (number, one verdict per transaction), never blocking."""
        return [self._settle(number, held) for number, held in self._verifier.collect()]

    def wait(self) -> list[tuple[int, list[Verdict]]]:
        """Finished batches; waits for one if any is on its way."""
        return [self._settle(number, held) for number, held in self._verifier.wait()]

    def _settle(self, number: int, held: list[bool]) -> tuple[int, list[Verdict]]:
        batch = self._batches.pop(number)
        signatures = self._session.signatures
        for place, check, valid in zip(batch.places, batch.checks, held, strict=True):
            tx = batch.verdicts[place]
            if not valid:
                batch.verdicts[place] = AdmissionCode.BAD_SIGNATURE
            elif isinstance(tx, Tx):
                signatures.remember(fingerprint(check.suite, check.public_key, check.signature, check.message))
                signatures.keep_parsed(tx)
        return number, batch.verdicts
