"""The feed between the wire and the charts: check, keep, acknowledge; then file, in the order of arrival.

A message is mapped before it is acknowledged, so that one that cannot be taken is refused to its sender's face and
leaves nothing behind. Filing again what was filed already changes nothing, which is why a crash between charts
and journal does no harm.
"""

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from carechain.charts.binding import provisional
from carechain.core.rejection import Rejected, RejectionCode
from carechain.sources.bundles import Prepared
from carechain.sources.hl7v2.acknowledgement import answer
from carechain.sources.hl7v2.journal import Journal, Waiting
from carechain.sources.hl7v2.mapping import Parcel, translate
from carechain.sources.hl7v2.message import Message
from carechain.sources.hl7v2.patients import Identity, patient
from carechain.sources.hl7v2.values import Place
from carechain.sources.intake import Intake

_CONTROL_BYTES: Final = 8


class Registry(Protocol):
    """Who a patient is to the ledger."""

    def pseudonym(self, value: str) -> bytes | None:
        """The pseudonym that an identifier of this organisation is bound to; None for one that is bound to none."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one message when it was filed."""

    changed: int = 0
    code: RejectionCode | None = None


class Feed:
    """Receives and files. ``receive`` and ``file_next`` may run in two threads; each of them in one at a time."""

    def __init__(
        self,
        *,
        journal: Journal,
        intake: Intake,
        registry: Registry,
        place: Place,
        charset: str,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._registry = registry
        self._place = place
        self._charset = charset
        self._clock = clock
        self._entropy = entropy

    def receive(self, data: bytes) -> bytes | None:
        """Take a message; returns the acknowledgement, None when the sender wants none.

        A positive one is only given for what is on disk. Raises :class:`JournalUnavailable`: then nothing is answered.
        """
        message: Message | None = None
        refusal: Rejected | None = None
        try:
            message = Message.parse(data, default_charset=self._charset)
            translate(message, self._place)
            self._journal.add(data, received_s=self._clock())
        except Rejected as refused:
            refusal = refused
        return self.answer(message, refusal)

    def answer(self, message: Message | None, refusal: Rejected | None) -> bytes | None:
        """The acknowledgement of a message, or of bytes that did not become one."""
        control = self._entropy(_CONTROL_BYTES).hex().upper()
        return answer(message, refusal, now_s=self._clock(), number=control)

    def file_next(self) -> Outcome | None:
        """File the oldest message that waits; None when none does.

        Raises what the charts raise when they cannot be used; the message then waits on.
        """
        waiting = self._journal.next()
        if waiting is None:
            return None
        try:
            outcome = Outcome(changed=self._file(waiting))
        except Rejected as refused:
            self._journal.refused(waiting.seq, refused.code)
            return Outcome(code=refused.code)
        self._journal.filed(waiting.seq)
        return outcome

    def _file(self, waiting: Waiting) -> int:
        message = Message.parse(waiting.body, default_charset=self._charset)
        charts: dict[Identity, tuple[bytes, Prepared | None]] = {}

        def patient_id(identity: Identity) -> str:
            charts[identity] = self._chart_of(identity)
            before = charts[identity][1]
            return identity.patient_id() if before is None else before.resource_id

        changed = 0
        for parcel in translate(message, self._place, patient_id):
            pseudonym, before = charts[parcel.identity]
            resources = (_patient_of(parcel, before), *parcel.resources)
            changed += self._intake.file(
                pseudonym=pseudonym, resources=resources, received_s=waiting.received_s
            ).changed
        return changed

    def _chart_of(self, identity: Identity) -> tuple[bytes, Prepared | None]:
        """Under which pseudonym a patient is filed, and the Patient that is known.

        A chart that was begun before the patient was registered goes over to the pseudonym.
        """
        begun_as = provisional(identity.patient_id())
        pseudonym = self._registry.pseudonym(identity.value)
        if pseudonym is None:
            return begun_as, self._intake.patient(begun_as)
        known = self._intake.patient(pseudonym)
        if known is None and (begun := self._intake.patient(begun_as)) is not None:
            self._intake.bind(begun.resource_id, pseudonym)
            known = self._intake.patient(pseudonym)
        return pseudonym, known


def _patient_of(parcel: Parcel, before: Prepared | None) -> Prepared:
    """The patient's Patient: as known, unless the message brings news."""
    if before is not None and not parcel.renews:
        return before
    patient_id = parcel.identity.patient_id() if before is None else before.resource_id
    return patient(patient_id, parcel.said, before)


class NobodyRegistered:
    """The registry of an organisation that registers no patients: everybody is filed as unbound."""

    def pseudonym(self, value: str) -> bytes | None:  # noqa: ARG002 - the Protocol's
        """None."""
        return None
