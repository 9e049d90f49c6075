"""Consents as files: a FHIR Consent taken over as grants and rules, and grants written as Consents (CON-10)."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carechain.cli.options import ByAnyone, ByPatient, PatientOption
from carechain.cli.output import CannotRun, Desk, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import action_names, identifier, moment, names, scope_data, scope_text
from carechain.core.vocabulary import Purpose

if TYPE_CHECKING:
    from datetime import tzinfo

    from rich.console import Console

    from carechain.cli.acting import Desktop, Seat
    from carechain.core.message import Message
    from carechain.core.vocabulary import PartyKind
    from carechain.sdk.pcf import Table

app = sub_app("Consents as FHIR resources (IHE PCF): take one over, write one out.")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A FHIR Consent (R4 or R5), JSON.")]
IsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--is",
        metavar="REFERENCE=PARTY",
        help="Who a reference in the Consent means, as in Practitioner/17=dr-lee; repeated for a Group's members.",
    ),
]
ZoneOption = Annotated[
    str, typer.Option("--time-zone", metavar="NAME", help="Where dates without an offset count, e.g. Asia/Shanghai.")
]


@command(app, "take")
def take(
    desk: Desk,
    *,
    file: FileArgument,
    meaning: IsOption = None,
    time_zone: ZoneOption = "UTC",
    preview: Annotated[
        bool, typer.Option("--preview", help="Only show what the Consent comes to; sign and send nothing.")
    ] = False,
    patient: PatientOption = None,
    by: ByAnyone,
) -> Report:
    """Put a Consent into force: sign the grants and standing rules that say what it says.

    A Consent that the ledger has no words for is refused by name, and nothing of it is sent. One that was written by
    `consent show` and has ended since ends its grant or rule.
    """
    from carechain.chain.questions import OfPseudonym
    from carechain.cli.acting import Desktop, KnownRule
    from carechain.sdk.pcf import to_messages

    content = _read(file)
    zone = _zone(time_zone)
    desktop = Desktop(desk, by)
    naming = _naming(desktop, meaning or [])
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        messages = to_messages(
            content,
            pseudonym=pseudonym,
            now_s=seat.time_s,
            naming=naming,
            zone=zone,
            rules=[int.from_bytes(one.id) for one in seat.rows("consent.rules", KnownRule, OfPseudonym(pseudonym))],
        )
        done = None if preview else seat.submit(*messages)
    rows = [_message_data(one) for one in messages]
    text = [_message_text(one, desktop) for one in messages]
    data: dict[str, object] = {"pseudonym": pseudonym.hex(), "messages": rows, "sent": done is not None}
    if done is not None:
        from carechain.contracts.consent.schema import Granted

        data |= {"grants": [one.grant_id.hex() for one in done.events if isinstance(one, Granted)], **done.data()}
    note = "nothing was sent" if done is None else done.text()

    def show(screen: "Console") -> None:
        tables(table("The Consent in the ledger's words", ("does", "whom", "what", "purposes", "until (UTC)"), text))(
            screen
        )
        lines(f"{counted(len(messages), 'message')}: {note}")(screen)

    return Report(data=data, show=show)


@command(app, "show")
def show(
    desk: Desk,
    *,
    grant_id: Annotated[
        bytes | None, typer.Argument(parser=identifier, metavar="GRANT", help="Only this grant.")
    ] = None,
    by: ByPatient,
) -> Report:
    """Write the patient's grants as FHIR Consents, ended ones included."""
    import msgspec

    from carechain.chain.questions import GrantPage
    from carechain.cli.acting import Desktop
    from carechain.contracts.consent.schema import ConsentCode
    from carechain.contracts.consent.views import GrantView
    from carechain.core.rejection import require
    from carechain.sdk.pcf_writing import Setting, grant_consent

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient()
    with desktop.seat(actor) as seat:
        found = seat.rows("consent.grants", GrantView, GrantPage(pseudonym))
        wanted = [one for one in found if grant_id in (None, one.grant_id)]
        require(wanted or grant_id is None, ConsentCode.GRANT_NOT_FOUND)
        kinds = {party: _kind(seat, party) for one in wanted for party in (one.grant.grantor, *one.grant.grantees)}
        setting = Setting(custodian=_custodian(seat, pseudonym), kind=kinds.get)
    consents = [msgspec.json.decode(grant_consent(one, setting)) for one in wanted]
    text = msgspec.json.format(msgspec.json.encode(consents), indent=2).decode()
    return Report(data={"pseudonym": pseudonym.hex(), "consents": consents}, show=lines(text))


def _read(file: Path) -> bytes:
    from carechain.sdk.pcf_reading import CONSENT_BYTES

    try:
        with file.expanduser().open("rb") as stream:
            return stream.read(CONSENT_BYTES + 1)
    except OSError as error:
        raise CannotRun(f"{file} cannot be read: {error.strerror}") from None


def _zone(name: str) -> "tzinfo":
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise typer.BadParameter("no such time zone; write one as Asia/Shanghai", param_hint="--time-zone") from None


def _naming(desktop: "Desktop", meaning: list[str]) -> "Table":
    from carechain.sdk.pcf import Table

    parties: dict[str, list[bytes]] = {}
    for one in meaning:
        reference, equals, party = one.rpartition("=")
        if not equals or not reference:
            raise typer.BadParameter("write REFERENCE=PARTY, for example Practitioner/17=dr-lee", param_hint="--is")
        parties.setdefault(reference, []).append(desktop.keys.party(party, hint="--is"))
    return Table(known_parties=parties)


def _kind(seat: "Seat", party: bytes) -> "PartyKind":
    from carechain.chain.questions import OfParty
    from carechain.cli.acting import KnownParty

    return seat.rows("membership.party", KnownParty, OfParty(party))[0].row.kind


def _custodian(seat: "Seat", pseudonym: bytes) -> bytes:
    from carechain.chain.questions import OfParty
    from carechain.cli.acting import KnownParty

    return seat.rows("membership.party", KnownParty, OfParty(pseudonym))[0].row.organisation


def _message_data(message: "Message") -> dict[str, Any]:
    """One message as JSON, in the words of the other commands."""
    from carechain.contracts.consent.schema import DropRule, Grant, Revoke, SetRule

    match message:
        case Grant():
            return {
                "message": "grant",
                "grantees": [one.hex() for one in message.grantees],
                "scope": scope_data(message.scope),
                "actions": action_names(message.actions),
                "purposes": names(Purpose, message.purposes),
                "expires_s": message.expires_s,
            }
        case SetRule():
            return {
                "message": "set_rule",
                "rule": message.rule,
                "answer": message.answer.name.lower(),
                "who": _people(message),
                "scope": scope_data(message.scope),
                "purposes": names(Purpose, message.purposes),
                "expires_s": message.expires_s,
            }
        case Revoke():
            return {"message": "revoke", "grant": message.grant_id.hex()}
        case DropRule():
            return {"message": "drop_rule", "rule": message.rule}
    raise TypeError(f"a Consent never becomes {type(message).__name__}")


def _message_text(message: "Message", desktop: "Desktop") -> tuple[str, ...]:
    from carechain.contracts.consent.schema import Grant, Revoke, SetRule

    match message:
        case Grant():
            whom = ", ".join(desktop.keys.name_of(one) for one in message.grantees)
            what = f"{', '.join(action_names(message.actions))}: {scope_text(message.scope)}"
            return "grants", whom, what, _purposes(message.purposes), moment(message.expires_s)
        case SetRule():
            does = f"rule {message.rule}: {message.answer.name.lower()}"
            whom = desktop.keys.name_of(message.who.party) if message.who.party else _people(message) or "everybody"
            return does, whom, scope_text(message.scope), _purposes(message.purposes), moment(message.expires_s)
        case Revoke():
            return "revokes", "", message.grant_id.hex(), "", ""
        case _:
            return "drops a rule", "", "", "", ""


def _people(message: Any) -> str:  # noqa: ANN401 - a SetRule, whose module is loaded by the commands alone
    from carechain.sdk.pcf_terms import people

    return people(message.who)


def _purposes(bits: int) -> str:
    return ", ".join(names(Purpose, bits))
