"""Goal: an app gets in by a patient's grant or a clinician's tickets, sees what they show, and is out when they end.

Method: the whole walk through the gateway's own application over the small world's ledger: browser, approver, app.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from carechain.core.vocabulary import Purpose, Sensitivity, mask
from carechain.gateway.clients import Proof, hash_of
from carechain.gateway.codes import SmartCode
from house import CARE
from smart_house import BASE, ROOT, SCOPES, KeyHolder, SmartHouse, query_of
from world import YEAR_S, grant_of


@pytest.fixture
def house(tmp_path: Path) -> Iterator[SmartHouse]:
    house = SmartHouse(tmp_path)
    yield house
    house.close()


# --- standalone launch ----------------------------------------------------------------------------------


def test_discovery_names_what_is_there(house: SmartHouse) -> None:
    told = house.ask("GET", "/fhir/.well-known/smart-configuration").json()
    assert house.ask("GET", "/.well-known/smart-configuration").json() == told
    assert told["authorization_endpoint"] == f"{ROOT}/smart/authorize"
    assert told["code_challenge_methods_supported"] == ["S256"]
    statement = house.ask("GET", "/fhir/metadata").json()
    (oauth,) = statement["rest"][0]["security"]["extension"]
    addresses = {one["url"]: one["valueUri"] for one in oauth["extension"]}
    assert addresses["token"] == told["token_endpoint"]


def test_a_patient_lets_an_app_in(house: SmartHouse) -> None:
    handle, shown = house.waiting()
    asked = house.shown(shown, house.world.steve)
    assert asked.app == house.client.name
    assert asked.party == house.world.nora.id
    assert query_is_open(house, handle)
    code, _ = house.approved()
    answer = house.redeem(code)
    told = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert told["token_type"] == "Bearer"
    assert set(told["scope"].split()) == set(SCOPES.split())
    read = house.read(told["access_token"], f"Patient/{told['patient']}")
    assert read.status_code == 200, read.text
    found = house.read(told["access_token"], "Observation?_count=100").json()
    assert found["entry"]
    assert {one["resource"]["resourceType"] for one in found["entry"]} == {"Observation"}


def query_is_open(house: SmartHouse, handle: str) -> bool:
    """The browser goes on waiting."""
    return "http-equiv=refresh" in house.wait(handle).text


def test_the_redirect_keeps_the_apps_own_query_and_state(house: SmartHouse) -> None:
    handle, shown = house.waiting()
    house.answer(shown, house.world.steve, grant=house.consent().hex())
    back = query_of(house.wait(handle))
    assert back["state"] == "state &=?# 状态"
    assert back["keep"] == "1"
    assert back["iss"] == BASE
    # The answer is taken once.
    assert house.wait(handle).status_code == 404


def test_nothing_above_the_granted_grade_is_seen(house: SmartHouse) -> None:
    told, _ = house.tokens("patient/*.rs")
    seen = house.read(told["access_token"], "Observation?_count=500&_total=accurate").json()
    handle, shown = house.waiting(scope="patient/*.rs")
    grant = house.consent("patient/*.rs", scope=CARE.__class__(categories=CARE.categories, ceiling=Sensitivity.V))
    house.answer(shown, house.world.steve, grant=grant.hex())
    more = house.redeem(query_of(house.wait(handle))["code"]).json()
    wider = house.read(more["access_token"], "Observation?_count=500&_total=accurate").json()
    assert house.of_grade(Sensitivity.V, Sensitivity.R)
    assert len(wider["entry"]) > len(seen["entry"])


def test_revoking_the_grant_ends_the_token_at_once(house: SmartHouse) -> None:
    told, grant = house.tokens()
    assert house.read(told["access_token"], "Observation").status_code == 200
    before = len(house.ledger.submitted)
    house.revoke(grant)
    for _ in range(2):
        ended = house.read(told["access_token"], "Observation")
        assert ended.status_code == 401
        assert ended.headers["www-authenticate"].startswith("Bearer")
    # The app asks the ledger no more, so the patient's log does not fill up.
    assert len(house.ledger.submitted) == before
    assert house.refresh(told["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_ticket_serves_until_it_ends_and_then_another_is_asked_for(house: SmartHouse) -> None:
    told, _ = house.tokens()
    for _ in range(3):
        assert house.read(told["access_token"], "Observation").status_code == 200
    assert len(house.ledger.submitted) == 1
    house.world.wait(880)
    assert house.read(told["access_token"], "Observation").status_code == 200
    house.world.wait(25)
    assert house.read(told["access_token"], "Observation").status_code == 401
    fresh = house.refresh(told["refresh_token"]).json()
    assert house.read(fresh["access_token"], "Observation").status_code == 200
    assert len(house.ledger.submitted) == 2


def test_every_reading_stands_in_the_audit_and_on_the_ledger(house: SmartHouse) -> None:
    told, _ = house.tokens()
    before = len(house.audit.entries())
    house.read(told["access_token"], "Observation?_count=5")
    (entry,) = house.audit.entries()[before:]
    assert entry.read.requester == house.world.nora.id
    assert entry.read.records
    house.runner.run(house.reporter().report())
    assert house.audit.unreported() is None


def test_nobody_approves_for_somebody_else(house: SmartHouse) -> None:
    world = house.world
    handle, shown = house.waiting()
    refused = house.answer(shown, world.carl, grant=house.consent().hex(), pseudonym=world.steve.id.hex())
    assert refused.json()["label"] == SmartCode.APPROVAL_NOT_YOURS.label
    assert query_is_open(house, handle)


def test_a_representative_approves_for_the_patient(house: SmartHouse) -> None:
    world = house.world
    aunt = world.appoint("aunt", world.steve)
    handle, shown = house.waiting()
    told = {"scope": house.shown(shown, aunt).scope, "purposes": mask(Purpose.CAREMGT)}
    grant = world.grant(grant_of(world.steve, world.nora, **told), by=aunt)
    answer = house.answer(shown, aunt, grant=grant.hex(), pseudonym=world.steve.id.hex())
    assert answer.status_code == 204, answer.text
    token = house.redeem(query_of(house.wait(handle))["code"]).json()["access_token"]
    assert house.read(token, "Observation").status_code == 200


def test_the_patient_may_leave_scopes_out(house: SmartHouse) -> None:
    code, _ = house.approved(left=["patient/Observation.rs"])
    told = house.redeem(code).json()
    assert told["scope"] == "patient/Observation.rs"
    assert "refresh_token" not in told
    assert house.read(told["access_token"], "Observation").status_code == 200
    assert house.read(told["access_token"], f"Patient/{told['patient']}").status_code == 403


def test_one_patients_approval_shows_nothing_of_others(house: SmartHouse) -> None:
    world = house.world
    told, _ = house.tokens("patient/*.rs")
    scope = house.shown(house.waiting()[1], world.steve).scope
    marys = world.grant(grant_of(world.mary, world.nora, scope=scope, purposes=mask(Purpose.CAREMGT)), by=world.mary)
    for path in ("Consent", f"Consent/{marys.hex()}", "AuditEvent"):
        refused = house.read(told["access_token"], path)
        assert refused.status_code == 403
        assert world.mary.id.hex() not in refused.text
    # Nora herself, with her own key, sees what was granted to her.
    own = house.ask("GET", "/fhir/Consent", headers=house.session(world.nora))
    assert own.status_code == 200, own.text


def test_denying_sends_the_app_away(house: SmartHouse) -> None:
    handle, shown = house.waiting()
    assert house.answer(shown, house.world.steve, approve=False).status_code == 204
    assert query_of(house.wait(handle))["error"] == "access_denied"


def test_who_approved_is_told_in_an_identity_token(house: SmartHouse) -> None:
    handle, shown = house.waiting(nonce="n-1")
    house.answer(shown, house.world.steve, grant=house.consent().hex())
    told = house.redeem(query_of(house.wait(handle))["code"]).json()
    keys = KeySet.import_key_set(house.ask("GET", "/smart/jwks").json())
    claims = jwt.decode(told["id_token"], keys, algorithms=["RS256"]).claims
    assert claims["iss"] == BASE
    assert claims["aud"] == house.client.client_id
    assert claims["nonce"] == "n-1"
    assert claims["fhirUser"] == f"{BASE}/Patient/{told['patient']}"
    assert house.world.steve.id.hex() not in str(claims)


def test_scopes_with_a_query_narrow_what_is_read(house: SmartHouse) -> None:
    scope = "patient/Observation.rs?category=laboratory"
    told, _ = house.tokens(scope)
    assert told["scope"] == scope
    entries = house.read(told["access_token"], "Observation?_count=200").json().get("entry", [])
    for one in entries:
        codes = {c["code"] for part in one["resource"]["category"] for c in part["coding"]}
        assert "laboratory" in codes
    everything, _ = house.tokens("patient/Observation.rs")
    all_of_them = house.read(everything["access_token"], "Observation?_count=200").json()["entry"]
    assert len(entries) < len(all_of_them)


def test_version_1_scopes_are_understood(house: SmartHouse) -> None:
    told, _ = house.tokens("patient/Observation.read")
    assert told["scope"] == "patient/Observation.read"
    assert house.read(told["access_token"], "Observation").status_code == 200
    assert house.read(told["access_token"], "Condition").status_code == 403


# --- clinicians -----------------------------------------------------------------------------------------


def test_a_clinicians_launch_opens_the_app_with_its_tickets(house: SmartHouse) -> None:
    ticket = house.ticket()
    wanted = {"client_id": house.client.client_id, "tickets": [ticket.hex()]}
    answer = house.ask("POST", "/smart/launch", headers=house.session(house.world.bert), json=wanted)
    assert answer.status_code == 200, answer.text
    launch = answer.content.partition(b"ccl_")[1] + answer.content.partition(b"ccl_")[2][:43]
    scope = "launch openid fhirUser patient/Observation.rs"
    back = query_of(house.authorize(launch=launch.decode(), scope=scope))
    told = house.redeem(back["code"]).json()
    assert told["patient"]
    assert house.read(told["access_token"], "Observation").status_code == 200
    # Used once, and never by anybody else's app.
    assert query_of(house.authorize(launch=launch.decode(), scope=scope))["error"] == "invalid_request"
    house.world.wait(901)
    assert house.read(told["access_token"], "Observation").status_code == 401


def test_a_launch_is_for_one_app(house: SmartHouse) -> None:
    house.apps.register(house.app(client_id="client-0002"))
    wanted = {"client_id": "client-0002", "tickets": [house.ticket().hex()]}
    answer = house.ask("POST", "/smart/launch", headers=house.session(house.world.bert), json=wanted)
    launch = (answer.content.partition(b"ccl_")[1] + answer.content.partition(b"ccl_")[2][:43]).decode()
    assert query_of(house.authorize(launch=launch))["error"] == "invalid_request"
    assert "code" in query_of(house.authorize(launch=launch, client_id="client-0002"))


def test_a_clinician_approves_with_tickets(house: SmartHouse) -> None:
    handle, shown = house.waiting(scope="user/Observation.rs online_access")
    ticket = house.ticket()
    assert house.answer(shown, house.world.bert, tickets=[ticket.hex()]).status_code == 204
    told = house.redeem(query_of(house.wait(handle))["code"]).json()
    assert house.read(told["access_token"], "Observation").status_code == 200
    assert house.refresh(told["refresh_token"]).status_code == 200


def test_nobody_approves_with_somebody_elses_ticket(house: SmartHouse) -> None:
    _, shown = house.waiting()
    refused = house.answer(shown, house.world.carl, tickets=[house.ticket().hex()])
    assert refused.json()["label"] == SmartCode.TICKET_NOT_LIVE.label


# --- systems --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ES384", "RS384"])
def test_a_system_of_the_organisation_proves_itself_by_signing(house: SmartHouse, kind: str) -> None:
    holder = KeyHolder(kind)
    system = house.app(
        client_id="lab-system", redirects=(), scopes=("system/*.cruds",), proof=Proof.KEYS, keys=holder.jwks(),
        system=True, acting="", party=None,
    )  # fmt: skip
    house.apps.register(system)
    form = {
        "grant_type": "client_credentials",
        "scope": "system/Observation.rs",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": holder.assertion("lab-system", house.clock()),
    }
    told = house.ask("POST", "/smart/token", data=form).json()
    assert told["scope"] == "system/Observation.rs"
    assert told["expires_in"] == 300
    before = len(house.own.entries())
    assert house.read(told["access_token"], "Observation").status_code == 200
    (entry,) = house.own.entries()[before:]
    assert entry.reading.client_id == "lab-system"
    assert house.own.check() == before + 1
    assert house.read(told["access_token"], "Patient").status_code == 403
    again = house.ask("POST", "/smart/token", data=form)
    assert again.json()["error"] == "invalid_client"


def test_a_partners_system_sees_by_the_tickets_it_shows(house: SmartHouse) -> None:
    world = house.world
    house.apps.register(
        house.app(
            client_id="partner-1",
            redirects=(),
            scopes=("system/*.rs",),
            proof=Proof.SECRET,
            secret_hash=hash_of("s3"),
            acting="",
            party=world.bert.id,
        )
    )
    form = {"grant_type": "client_credentials", "scope": "system/*.rs"}
    told = house.ask("POST", "/smart/token", data=form, auth=("partner-1", "s3")).json()
    none = house.read(told["access_token"], "Observation").json()
    assert "entry" not in none or not none["entry"]
    ticket = house.ticket()
    some = house.read(told["access_token"], "Observation", **{"x-consent-ticket": ticket.hex()}).json()
    assert some["entry"]


# --- the ledger's own sessions --------------------------------------------------------------------------


def test_a_party_reads_with_its_session_and_its_ticket(house: SmartHouse) -> None:
    ticket = house.ticket()
    session = house.session(house.world.bert)
    shown = house.ask("GET", "/fhir/Observation", headers={**session, "x-consent-ticket": ticket.hex()})
    assert shown.json()["entry"]
    without = house.ask("GET", "/fhir/Observation", headers=session)
    assert not without.json().get("entry")
    purpose = {**session, "x-consent-ticket": ticket.hex(), "x-purpose-of-use": "TREAT"}
    assert house.ask("GET", "/fhir/Observation", headers=purpose).status_code == 200
    wrong = {**purpose, "x-purpose-of-use": "HPAYMT"}
    assert house.ask("GET", "/fhir/Observation", headers=wrong).status_code == 403
    house.world.wait(901)
    late = {**house.session(house.world.bert), "x-consent-ticket": ticket.hex()}
    assert house.ask("GET", "/fhir/Observation", headers=late).status_code == 403


def test_a_researchers_ticket_opens_no_chart(house: SmartHouse) -> None:
    world = house.world
    ticket = house.ticket(world.rita, purpose=Purpose.HRESCH)
    shown = house.ask(
        "GET", "/fhir/Observation", headers={**house.session(world.rita), "x-consent-ticket": ticket.hex()}
    )
    assert shown.status_code == 403


def test_a_stale_ledger_serves_nothing(house: SmartHouse) -> None:
    told, _ = house.tokens()
    assert house.read(told["access_token"], "Observation").status_code == 200
    house.skew_s = 31
    assert house.read(told["access_token"], "Observation").status_code == 503


def test_the_grants_end_is_the_apps_end(house: SmartHouse) -> None:
    told, _ = house.tokens()
    house.world.wait(YEAR_S + 10)
    assert house.refresh(told["refresh_token"]).status_code == 400
