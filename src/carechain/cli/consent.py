"""The patient's side: grants, requests, who can see what, and the access log."""

# ruff: noqa: PLC0415 - what needs cryptography or the network is imported by the command that uses it, so help is quick

from typing import TYPE_CHECKING, Annotated

import typer

from carechain.cli.options import ByAnyone, ByOrganisation, ByPatient, PatientOption
from carechain.cli.output import Desk, Report, command, counted, lines, sub_app, table, tables
from carechain.cli.terms import (
    ActionsOption,
    DaysOption,
    Permitting,
    PurposeOption,
    Within,
    action_names,
    categories,
    ceiling,
    identifier,
    moment,
    names,
    scope_data,
    scope_text,
    seconds,
    typed,
)
from carechain.core.vocabulary import Purpose, Sensitivity

if TYPE_CHECKING:
    from rich.console import Console

    from carechain.chain.questions import LogLine

GrantArgument = Annotated[bytes, typer.Argument(parser=identifier, metavar="GRANT", help="The grant's id.")]
ToPartyOption = Annotated[
    list[str],
    typer.Option("--to", metavar="PARTY", help="Who: an organisation or a person, by name or id; may be repeated."),
]

_READ: int = typed("read")
_TREAT: Purpose = typed("TREAT")

app = sub_app("")


@command(app, "grant")
def grant(
    desk: Desk,
    *,
    to: ToPartyOption,
    within: Within,
    permitting: Permitting,
    parent: Annotated[
        bytes | None,
        typer.Option("--parent", parser=identifier, metavar="GRANT", help="Pass on part of this grant to a colleague."),
    ] = None,
    patient: PatientOption = None,
    by: ByAnyone,
) -> Report:
    """Let somebody read, write or pass on part of a record.

    The patient grants with a wallet. A clinician who may delegate passes a grant on with --parent and --patient.
    Prints the grant's id.
    """
    from carechain.cli.acting import Desktop
    from carechain.contracts.consent.schema import Grant, Granted

    scope = within.scope()
    desktop = Desktop(desk, by)
    grantees = tuple(sorted({desktop.keys.party(one, hint="--to") for one in to}))
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        done = seat.submit(
            Grant(
                pseudonym=pseudonym,
                grantees=grantees,
                parent=parent,
                scope=scope,
                actions=permitting.actions,
                purposes=permitting.purposes,
                expires_s=seat.time_s + seconds(permitting.days),
            )
        )
    granted = done.event(Granted)
    may = ", ".join(action_names(permitting.actions))
    data = {
        "grant": granted.grant_id.hex(),
        "pseudonym": pseudonym.hex(),
        "grantees": [one.hex() for one in grantees],
        "scope": scope_data(scope),
        "actions": action_names(permitting.actions),
        "purposes": names(Purpose, permitting.purposes),
        "expires_s": granted.expires_s,
        **done.data(),
    }
    return Report(
        data=data,
        show=lines(
            f"granted until {moment(granted.expires_s)} UTC: {may} on {scope_text(scope)}",
            f"grant {granted.grant_id.hex()}",
            done.text(),
        ),
    )


@command(app, "revoke")
def revoke(
    desk: Desk,
    *,
    grant_id: Annotated[
        bytes | None, typer.Argument(parser=identifier, metavar="GRANT", help="The grant's id.")
    ] = None,
    ticket: Annotated[
        bytes | None, typer.Option("--ticket", parser=identifier, metavar="ID", help="End a ticket instead.")
    ] = None,
    patient: PatientOption = None,
    by: ByAnyone,
) -> Report:
    """End a grant and everything that was passed on from it, or one ticket.

    The patient may end every grant; a clinician the ones it passed on itself.
    """
    from carechain.cli.acting import Desktop
    from carechain.contracts.access import RevokeTicket
    from carechain.contracts.consent.schema import Revoke

    if (grant_id is None) == (ticket is None):
        raise typer.BadParameter("name a grant, or a ticket with --ticket")
    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor) as seat:
        if ticket is not None:
            done = seat.submit(RevokeTicket(ticket=ticket))
        else:
            done = seat.submit(Revoke(pseudonym=pseudonym, grant_id=grant_id or b""))
    ended = (ticket or grant_id or b"").hex()
    return Report(
        data={"revoked": ended, **done.data()},
        show=lines(f"revoked {ended}; everything that hung from it has ended", done.text()),
    )


@command(app, "grants")
def grants(
    desk: Desk,
    *,
    by: ByPatient,
) -> Report:
    """List the patient's grants, ended ones included."""
    from carechain.chain.questions import GrantPage
    from carechain.cli.acting import Desktop
    from carechain.contracts.consent.views import GrantView

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient()
    with desktop.seat(actor) as seat:
        found = seat.rows("consent.grants", GrantView, GrantPage(pseudonym))
    rows = [
        {
            "grant": one.grant_id.hex(),
            "live": one.live,
            "grantees": [grantee.hex() for grantee in one.grant.grantees],
            "grantor": one.grant.grantor.hex(),
            "parent": one.grant.parent.hex() if one.grant.parent else None,
            "scope": scope_data(one.grant.scope),
            "actions": action_names(one.grant.actions),
            "purposes": names(Purpose, one.grant.purposes),
            "expires_s": one.grant.expires_s,
        }
        for one in found
    ]
    text = [
        (
            one.grant_id.hex(),
            "live" if one.live else "ended",
            ", ".join(desktop.keys.name_of(grantee) for grantee in one.grant.grantees),
            ", ".join(action_names(one.grant.actions)),
            scope_text(one.grant.scope),
            moment(one.grant.expires_s),
        )
        for one in found
    ]
    columns = ("grant", "state", "to", "may", "what", "until (UTC)")
    return Report(data={"pseudonym": pseudonym.hex(), "grants": rows}, show=tables(table("Grants", columns, text)))


@command(app, "request")
def request(
    desk: Desk,
    *,
    patient: Annotated[str, typer.Option("--patient", metavar="PSEUDONYM", help="Whose records.")],
    within: Within,
    purpose: PurposeOption = _TREAT,
    by: ByOrganisation,
) -> Report:
    """Ask the ledger for access now. Prints the ticket, allowed or refused.

    A refused request exits with 1 and names the check that failed; it stands in the patient's log like an allowed one.
    """
    from carechain.cli.acting import Desktop, refused_ticket
    from carechain.contracts.access import Decided, RequestAccess

    scope = within.scope()
    desktop = Desktop(desk, by)
    pseudonym = desktop.keys.party(patient, hint="--patient")
    with desktop.seat(desktop.anyone(pseudonym)) as seat:
        done = seat.submit(RequestAccess(pseudonym=pseudonym, scope=scope, purpose=purpose))
    decided = done.event(Decided)
    data = {
        "ticket": decided.ticket.hex(),
        "allowed": not decided.decision,
        "decision": decided.decision,
        "custodian": decided.custodian.hex(),
        "expires_s": decided.expires_s,
        **done.data(),
    }
    if decided.decision:
        raise refused_ticket(decided.decision, data)
    return Report(
        data=data,
        show=lines(
            f"allowed until {moment(decided.expires_s)} UTC: {scope_text(scope)}, for {purpose.name}",
            f"ticket {decided.ticket.hex()}",
            done.text(),
            "read with: carechain record get --ticket TICKET",
        ),
    )


@command(app, "ask")
def ask(
    desk: Desk,
    *,
    patient: Annotated[str, typer.Option("--patient", metavar="PSEUDONYM", help="Whom to ask.")],
    within: Within,
    purpose: PurposeOption = _TREAT,
    actions: ActionsOption = _READ,
    days: DaysOption = 365,
    by: ByOrganisation,
) -> Report:
    """Ask the patient for a grant. It waits in the inbox unless a standing rule answers."""
    from carechain.cli.acting import Desktop, refused_ticket
    from carechain.contracts.consent.schema import Answer, Answered, Ask, Asked
    from carechain.core.decision import DecisionCode

    scope = within.scope()
    desktop = Desktop(desk, by)
    pseudonym = desktop.keys.party(patient, hint="--patient")
    with desktop.seat(desktop.anyone()) as seat:
        expires_s = seat.time_s + seconds(days)
        done = seat.submit(Ask(pseudonym=pseudonym, scope=scope, actions=actions, purpose=purpose, expires_s=expires_s))
    answered = done.maybe(Answered)
    if answered is None:
        asked = done.event(Asked)
        data = {"request": asked.request_id.hex(), "answer": "waiting", "grant": None, **done.data()}
        return Report(
            data=data,
            show=lines("the request waits in the patient's inbox", f"request {asked.request_id.hex()}", done.text()),
        )
    data = {
        "request": answered.request_id.hex(),
        "answer": answered.answer.name.lower(),
        "grant": answered.grant_id.hex() if answered.grant_id else None,
        **done.data(),
    }
    if answered.answer is Answer.DENY:
        raise refused_ticket(int(DecisionCode.DENIED_BY_PATIENT), data)
    return Report(data=data, show=lines(f"a standing rule allowed it: grant {data['grant']}", done.text()))


@command(app, "inbox")
def inbox(
    desk: Desk,
    *,
    by: ByPatient,
) -> Report:
    """List the requests that wait for the patient."""
    from carechain.chain.questions import OfPseudonym
    from carechain.cli.acting import Desktop, Waiting

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient()
    with desktop.seat(actor) as seat:
        found = seat.rows("consent.inbox", Waiting, OfPseudonym(pseudonym))
    rows = [
        {
            "request": one.id.hex(),
            "requester": one.row.requester.hex(),
            "scope": scope_data(one.row.scope),
            "actions": action_names(one.row.actions),
            "purpose": one.row.purpose.name,
            "expires_s": one.row.expires_s,
            "asked_s": one.row.asked_s,
        }
        for one in found
    ]
    text = [
        (
            one.id.hex(),
            desktop.keys.name_of(one.row.requester),
            one.row.purpose.name,
            ", ".join(action_names(one.row.actions)),
            scope_text(one.row.scope),
        )
        for one in found
    ]
    columns = ("request", "from", "purpose", "would", "what")
    return Report(data={"pseudonym": pseudonym.hex(), "requests": rows}, show=tables(table("Inbox", columns, text)))


@command(app, "answer")
def answer(
    desk: Desk,
    *,
    request_id: Annotated[bytes, typer.Argument(parser=identifier, metavar="REQUEST", help="The request's id.")],
    allow: Annotated[bool, typer.Option("--allow/--deny", help="Approve the request, or deny it.")],
    only: Annotated[
        int | None,
        typer.Option("--categories", parser=categories, metavar="LIST", help="Approve only these categories."),
    ] = None,
    up_to: Annotated[
        Sensitivity | None,
        typer.Option("--ceiling", parser=ceiling, metavar="GRADE", help="Approve up to this grade."),
    ] = None,
    days: Annotated[int | None, typer.Option("--days", min=1, max=36_500, help="Approve for so many days.")] = None,
    by: ByPatient,
) -> Report:
    """Approve a request as it stands, approve less of it, or deny it."""
    from msgspec.structs import replace

    from carechain.cli.acting import Desktop, waiting_request
    from carechain.contracts.consent.schema import Answered, AnswerRequest

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient()
    with desktop.seat(actor) as seat:
        asked = waiting_request(seat, pseudonym, request_id)
        scope = replace(
            asked.scope,
            categories=asked.scope.categories if only is None else only,
            ceiling=asked.scope.ceiling if up_to is None else up_to,
        )
        expires_s = asked.expires_s if days is None else min(asked.expires_s, seat.time_s + seconds(days))
        done = seat.submit(
            AnswerRequest(pseudonym=pseudonym, request_id=request_id, approve=allow, scope=scope, expires_s=expires_s)
        )
    answered = done.event(Answered)
    granted = answered.grant_id.hex() if answered.grant_id else None
    return Report(
        data={"request": request_id.hex(), "answer": answered.answer.name.lower(), "grant": granted, **done.data()},
        show=lines(f"approved: grant {granted}" if granted else "denied", done.text()),
    )


@command(app, "who-can-see")
def who_can_see(
    desk: Desk,
    *,
    record: Annotated[bytes, typer.Argument(parser=identifier, metavar="RECORD", help="The record's id.")],
    by: ByPatient,
) -> Report:
    """List everybody who could read a record now, why, and what ends when that is revoked."""
    from carechain.chain.questions import OfRecord
    from carechain.cli.acting import Desktop
    from carechain.contracts.consent.views import Reason

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient()
    with desktop.seat(actor) as seat:
        found = seat.rows("consent.who_can_see", Reason, OfRecord(pseudonym, record))
    rows = [
        {
            "who": [one.hex() for one in reason.who],
            "because": reason.because,
            "grant": reason.grant_id.hex() or None,
            "rule": reason.number if reason.because.startswith("rule") else None,
            "ends_with": [one.hex() for one in reason.ends_with],
            "expires_s": reason.expires_s or None,
        }
        for reason in found
    ]
    text = [
        (
            ", ".join(desktop.keys.name_of(one) for one in reason.who) or "whoever the consortium's policy names",
            reason.because,
            reason.grant_id.hex(),
            str(len(reason.ends_with)),
            moment(reason.expires_s) if reason.expires_s else "",
        )
        for reason in found
    ]
    columns = ("who", "because of", "grant", "grants that end with it", "until (UTC)")
    shown = tables(table("Who can see this record, besides its custodian", columns, text))
    return Report(data={"record": record.hex(), "reasons": rows}, show=shown)


@command(app, "log")
def log(
    desk: Desk,
    *,
    patient: PatientOption = None,
    light: Annotated[
        bool, typer.Option("--light", help="Go by the validators' signatures also where the node is one's own.")
    ] = False,
    by: ByAnyone,
) -> Report:
    """Show the patient's access log and prove it complete.

    Every line is hashed again, and the outcome is compared with the count and running hash that the state proves
    under a block's app hash: the one that the block's producer, or in a consortium the validators, signed. A log that
    is not complete is refused with exit status 1.
    """
    from carechain.cli.acting import Desktop

    desktop = Desktop(desk, by)
    actor, pseudonym = desktop.patient_or_deputy(patient)
    with desktop.seat(actor, light=light) as seat:
        proven = seat.complete_log(pseudonym)
    rows = [_log_data(line) for line in proven.lines]
    text = [_log_text(line, desktop.keys.name_of(line.line.actor)) for line in proven.lines]
    columns = ("no", "at (UTC)", "height", "what", "who", "purpose", "outcome", "records")
    data = {
        "pseudonym": pseudonym.hex(),
        "complete": True,
        "lines": rows,
        "count": len(rows),
        "height": proven.height,
        "time_s": proven.time_s,
    }
    note = f"complete: {counted(len(rows), 'line')}, proved at height {proven.height} ({moment(proven.time_s)} UTC)"

    def show(screen: "Console") -> None:
        tables(table("Access log", columns, text))(screen)
        lines(note)(screen)

    return Report(data=data, show=show)


def _log_data(shown: "LogLine") -> dict[str, object]:
    line = shown.line
    return {
        "number": shown.number,
        "kind": line.kind.name.lower(),
        "ticket": line.ticket.hex(),
        "actor": line.actor.hex(),
        "organisation": line.organisation.hex(),
        "purpose": line.purpose.name,
        "scope": scope_data(line.scope),
        "decision": line.decision,
        "records": line.records,
        "at_s": line.at_s,
        "height": line.height,
    }


def _log_text(shown: "LogLine", who: str) -> tuple[str, ...]:
    from carechain.chain.receipts import code_named

    line = shown.line
    code = code_named(line.decision)
    return (
        str(shown.number),
        moment(line.at_s),
        str(line.height),
        line.kind.name.lower(),
        who,
        line.purpose.name,
        "allowed" if code is None else f"refused: {code.label}",
        str(line.records) if line.records else "",
    )
