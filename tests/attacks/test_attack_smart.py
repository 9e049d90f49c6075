"""Goal: neither a malicious app nor whoever overhears one gets more than the approver gave, and not after it ended.

Method: the hospital's real authorisation server and FHIR server over the ledger of ``world`` (``smart_house``). The
attacker is a registered app, another app, or a stranger with a browser; it holds everything that such a one can hold.
"""

import base64
import hmac
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from carechain.contracts.access import RequestAccess
from carechain.core.vocabulary import Category, Purpose
from carechain.gateway.clients import Proof, hash_of
from carechain.gateway.codes import SmartCode
from carechain.sdk.authentication import AuthCode
from smart_house import BASE, CHALLENGE, REDIRECT, ROOT, SCOPES, VERIFIER, KeyHolder, SmartHouse, query_of
from world import grant_of, scope_of

JWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ANOTHER = "client-evil"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[SmartHouse]:
    """Hospital a, its app, and an app of the attacker's, as honestly registered as the other."""
    house = SmartHouse(tmp_path)
    house.apps.register(house.app(client_id=ANOTHER, redirects=("https://evil.example/cb",)))
    yield house
    house.close()


def launched(house: SmartHouse, *, client_id: str = "") -> str:
    """Bert starts an app with his ticket for Steve."""
    wanted = {"client_id": client_id or house.client.client_id, "tickets": [house.ticket().hex()]}
    answer = house.ask("POST", "/smart/launch", headers=house.session(house.world.bert), json=wanted)
    assert answer.status_code == 200, answer.text
    return (answer.content.partition(b"ccl_")[1] + answer.content.partition(b"ccl_")[2][:43]).decode()


# --- the way to the code --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/cb",
        "http://127.0.0.1:9000@evil.example/back?keep=1",
        "http://127.0.0.1:9000/back/../evil?keep=1",
        "http://127.0.0.1:9000/back%2F..?keep=1",
        "HTTP://127.0.0.1:9000/back?keep=1",
        "http://127.0.0.1:9001/back?keep=1",
        "http://localhost:9000/back?keep=1",
        "//127.0.0.1:9000/back?keep=1",
        REDIRECT + "\r\nlocation: https://evil.example",
        REDIRECT + " ",
        "javascript:alert(1)//" + REDIRECT,
    ],
)
def test_code_sent_to_the_attackers_address(house: SmartHouse, address: str) -> None:
    """Every address that only looks like a registered one: the browser is sent nowhere."""
    page = house.authorize(redirect_uri=address)
    assert page.status_code == 400
    assert "location" not in page.headers
    assert address not in page.text


def test_two_requests_in_one(house: SmartHouse) -> None:
    """One server reads the first ``redirect_uri`` and another the last: twice the same name is refused."""
    query = f"response_type=code&client_id={house.client.client_id}&redirect_uri={quote(REDIRECT)}"
    for name in ("redirect_uri", "redirect%5Furi"):
        page = house.ask("GET", f"/smart/authorize?{query}&{name}=https%3A%2F%2Fevil.example%2Fcb")
        assert page.status_code == 400
        assert "location" not in page.headers


@pytest.mark.parametrize(
    "changed",
    [
        {"code_challenge_method": "plain", "code_challenge": VERIFIER},
        {"code_challenge_method": None},
        {"code_challenge_method": "s256"},
        {"code_challenge": None},
        {"code_challenge": CHALLENGE + "="},
    ],
)
def test_pkce_downgraded_when_asking(house: SmartHouse, changed: dict[str, str | None]) -> None:
    """Without S256 an overheard code would be worth a token."""
    assert query_of(house.authorize(**changed))["error"] == "invalid_request"


@pytest.mark.parametrize("verifier", ["", CHALLENGE, "w" * 64, VERIFIER + "\n", VERIFIER + "=", VERIFIER[:42]])
def test_overheard_code_without_its_verifier(house: SmartHouse, verifier: str) -> None:
    """Everything that stands in addresses is known to the attacker, the challenge too. One wrong try burns the code."""
    code, _ = house.approved()
    assert house.redeem(code, code_verifier=verifier).json()["error"] == "invalid_grant"
    assert house.redeem(code).json()["error"] == "invalid_grant"


def test_code_of_another_app(house: SmartHouse) -> None:
    """A code that leaked to another app is nothing there, even with its verifier and address."""
    code, _ = house.approved()
    for address in (REDIRECT, "https://evil.example/cb"):
        assert house.redeem(code, client_id=ANOTHER, redirect_uri=address).status_code == 400


def test_code_used_a_second_time(house: SmartHouse) -> None:
    """Two have the code: nobody knows who is the thief, so both lose what came of it."""
    code, _ = house.approved()
    told = house.redeem(code).json()
    assert house.redeem(code).status_code == 400
    assert house.read(told["access_token"], "Observation").status_code == 401
    assert house.refresh(told["refresh_token"]).json()["error"] == "invalid_grant"


def test_mix_up_of_two_servers(house: SmartHouse) -> None:
    """An honest app is made to talk to the wrong server: every answer names its issuer, every request its audience."""
    for back in (query_of(house.authorize(scope="")), query_of(house.authorize(aud="https://evil.example/fhir"))):
        assert back["iss"] == BASE
        assert "code" not in back
    handle, shown = house.waiting()
    assert house.answer(shown, house.world.steve, grant=house.consent().hex()).status_code == 204
    assert query_of(house.wait(handle))["iss"] == BASE


def test_approval_collected_by_another_browser(house: SmartHouse) -> None:
    """The code on the screen is read over somebody's shoulder: it opens no page, and the handle works once."""
    handle, shown = house.waiting()
    assert house.wait(shown).status_code == 404
    assert house.answer(shown, house.world.steve, grant=house.consent().hex()).status_code == 204
    assert "code" in query_of(house.wait(handle))
    assert house.wait(handle).status_code == 404


# --- launches -------------------------------------------------------------------------------------------


def test_launch_used_again_or_by_another_app(house: SmartHouse) -> None:
    """A launch stands in an address: it is for one app and one time."""
    launch = launched(house)
    stolen = house.authorize(client_id=ANOTHER, redirect_uri="https://evil.example/cb", launch=launch)
    assert "error=" in stolen.headers["location"]
    assert "code=" not in stolen.headers["location"]
    scope = "launch patient/Observation.rs"
    assert "code" in query_of(house.authorize(launch=launch, scope=scope))
    assert query_of(house.authorize(launch=launch, scope=scope))["error"] == "invalid_request"


def test_launched_app_asks_for_other_patients_consents(house: SmartHouse) -> None:
    """A clinician holds grants of many patients; an app that was started for one of them must not list the others."""
    world = house.world
    world.grant(grant_of(world.mary, world.bert), by=world.mary)
    scope = "launch patient/Consent.rs patient/AuditEvent.rs patient/Observation.rs"
    token = house.redeem(query_of(house.authorize(launch=launched(house), scope=scope))["code"]).json()["access_token"]
    assert house.read(token, "Observation").status_code == 200
    for path in ("Consent", f"Consent?patient={world.mary.id.hex()}", "AuditEvent", "Patient/x/Consent"):
        answer = house.read(token, path)
        assert answer.status_code == 403
        assert world.mary.id.hex() not in answer.text


# --- assertions -----------------------------------------------------------------------------------------


def system(house: SmartHouse, holder: KeyHolder, client_id: str = "lab-system") -> None:
    house.apps.register(
        house.app(
            client_id=client_id,
            redirects=(),
            scopes=("system/*.rs",),
            proof=Proof.KEYS,
            keys=holder.jwks(),
            system=True,
            acting="",
            party=None,
        )
    )


def by_assertion(house: SmartHouse, assertion: str, **changed: str) -> httpx.Response:
    form = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": JWT,
        "client_assertion": assertion,
        **changed,
    }
    return house.ask("POST", "/smart/token", data=form)


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed_with(secret: bytes, claims: object) -> str:
    """HS256 by hand: the library does not let a public key be a secret."""
    signed = f"{encoded({'alg': 'HS256', 'kid': 'k1'})}.{encoded(claims)}"
    mac = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_algorithm_confusion(house: SmartHouse) -> None:
    """No signature, the public key as a shared secret, a key brought along, and the right key by another name."""
    holder = KeyHolder("RS384")
    system(house, holder)
    now_s = house.clock()
    claims = {
        "iss": "lab-system",
        "sub": "lab-system",
        "aud": f"{ROOT}/smart/token",
        "exp": now_s + 200,
        "jti": os.urandom(8).hex(),
    }
    own = ECKey.generate_key("P-384", {"kid": "k1"})
    brought = own.as_dict(private=False)
    forged = [
        f"{encoded({'alg': 'none', 'kid': 'k1'})}.{encoded(claims)}.",
        f"{encoded({'alg': 'None'})}.{encoded(claims)}.",
        *(signed_with(secret, claims) for secret in (holder.key.as_pem(private=False), holder.jwks(), b"")),
        jwt.encode({"alg": "ES384", "kid": "k1"}, claims, own, algorithms=["ES384"]),
        jwt.encode({"alg": "ES384", "jwk": brought}, claims, own, algorithms=["ES384"]),
        jwt.encode({"alg": "ES384", "kid": "../../etc/passwd"}, claims, own, algorithms=["ES384"]),
        jwt.encode({"alg": "RS256", "kid": "k1"}, claims, holder.key, algorithms=["RS256"]),
        jwt.encode({"alg": "PS384", "kid": "k1"}, claims, holder.key, algorithms=["PS384"]),
    ]
    for assertion in forged:
        answer = by_assertion(house, assertion)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert by_assertion(house, holder.assertion("lab-system", now_s)).status_code == 200


def test_assertion_replayed_or_for_somebody_else(house: SmartHouse) -> None:
    """The same number twice, another server's audience, another system's name, and lives that are too long."""
    holder = KeyHolder()
    system(house, holder)
    system(house, KeyHolder(), "other-system")
    now_s = house.clock()
    once = holder.assertion("lab-system", now_s, jti="once")
    assert by_assertion(house, once).status_code == 200
    for assertion in (
        once,
        holder.assertion("lab-system", now_s, jti="once"),
        holder.assertion("lab-system", now_s, aud="https://evil.example/token"),
        holder.assertion("lab-system", now_s, aud=[f"{ROOT}/smart/token", "https://evil.example/token"]),
        holder.assertion("lab-system", now_s, aud=BASE),
        holder.assertion("other-system", now_s),
        holder.assertion("lab-system", now_s, sub="other-system"),
        holder.assertion("lab-system", now_s, exp=now_s + 3600),
        holder.assertion("lab-system", now_s, exp=now_s - 60),
        holder.assertion("lab-system", now_s, nbf=now_s + 120),
        holder.assertion("lab-system", now_s, jti=None),
        holder.assertion("lab-system", now_s, exp=None),
    ):
        assert by_assertion(house, assertion).status_code == 401
    assert by_assertion(house, holder.assertion("lab-system", now_s), client_id="other-system").status_code == 401


# --- tokens ---------------------------------------------------------------------------------------------


def test_refresh_token_used_again(house: SmartHouse) -> None:
    """A stolen refresh token and the app's own: whoever comes second ends everything."""
    told, _ = house.tokens()
    newer = house.refresh(told["refresh_token"]).json()
    assert house.refresh(told["refresh_token"]).json()["error"] == "invalid_grant"
    assert house.read(newer["access_token"], "Observation").status_code == 401
    assert house.refresh(newer["refresh_token"]).json()["error"] == "invalid_grant"


def test_refresh_token_of_another_app(house: SmartHouse) -> None:
    """It is neither accepted from another app nor ended by it."""
    told, _ = house.tokens()
    assert house.refresh(told["refresh_token"], client_id=ANOTHER).json()["error"] == "invalid_grant"
    form = {"token": told["refresh_token"], "client_id": ANOTHER}
    assert house.ask("POST", "/smart/revoke", data=form).status_code == 200
    assert house.refresh(told["refresh_token"]).status_code == 200


def test_token_of_one_kind_used_as_another(house: SmartHouse) -> None:
    """Refresh tokens, codes, handles and a party's session are no access tokens, and the other way round."""
    told, _ = house.tokens()
    code, _ = house.approved()
    handle, _ = house.waiting()
    for token in (told["refresh_token"], code, handle, told["access_token"] + "x", "", "cca_"):
        assert house.read(token, "Observation").status_code == 401
    two = {"authorization": f"Bearer {told['access_token']}, Bearer {told['access_token']}"}
    assert house.ask("GET", "/fhir/Observation", headers=two).status_code == 401
    assert house.refresh(told["access_token"]).json()["error"] == "invalid_grant"
    session = {"authorization": f"Bearer {told['access_token']}"}
    refused = house.ask("GET", "/smart/approvals/AAAA-BBBB", headers=session)
    assert refused.json()["code"] in {int(SmartCode.TOKEN_INVALID), *(int(one) for one in AuthCode)}


def test_token_after_the_grant_was_revoked(house: SmartHouse) -> None:
    """The patient takes it back: the token that lives on opens nothing from the next block on, and is not renewed."""
    told, grant = house.tokens()
    assert house.read(told["access_token"], "Observation").status_code == 200
    house.revoke(grant)
    for path in ("Observation", "Observation?_summary=count", f"Patient/{told['patient']}", "$export"):
        answer = house.read(told["access_token"], path, prefer="respond-async")
        assert answer.status_code == 401
    assert house.refresh(told["refresh_token"]).json()["error"] == "invalid_grant"


def test_token_after_its_app_was_registered_for_less(house: SmartHouse) -> None:
    """An administrator takes a scope from an app: what it was given before holds no longer than the registration."""
    told, _ = house.tokens()
    assert house.read(told["access_token"], "Observation").status_code == 200
    house.apps.register(house.app(scopes=("launch/patient", "offline_access", "patient/Patient.rs")))
    assert house.read(told["access_token"], "Observation").status_code == 403
    assert house.read(told["access_token"], f"Patient/{told['patient']}").status_code != 403
    renewed = house.refresh(told["refresh_token"])
    assert house.read(renewed.json()["access_token"], "Observation").status_code == 403


def test_tickets_brought_along_by_an_app(house: SmartHouse) -> None:
    """An app adds a clinician's ticket, or its own party's for another purpose, to widen what a patient let it see."""
    told, _ = house.tokens()
    plain = house.read(told["access_token"], "Observation").json()
    world = house.world
    world.grant(grant_of(world.steve, world.nora, scope=scope_of(Category.DIAGNOSIS)), by=world.steve)
    wider = RequestAccess(pseudonym=world.steve.id, scope=scope_of(Category.DIAGNOSIS), purpose=Purpose.TREAT)
    own = world.request(wider, by=world.nora).ticket
    for ticket in (house.ticket(), own):
        shown = house.read(told["access_token"], "Observation", **{"x-consent-ticket": ticket.hex()})
        assert shown.json() == plain


def test_app_reads_another_patient(house: SmartHouse) -> None:
    """A token for one patient, and every way to name another: unknown like anybody who is not there."""
    told, _ = house.tokens()
    token = told["access_token"]
    answers = [house.read(token, f"Patient/{name}") for name in ("nobody", house.world.mary.id.hex())]
    assert {(one.status_code, one.content) for one in answers} == {(404, answers[0].content)}
    assert house.read(token, "Observation?patient=nobody").json().get("entry") is None
    assert house.read(token, "Patient?_id:not=" + told["patient"]).json().get("entry") is None


def test_introspection_of_somebody_elses_token(house: SmartHouse) -> None:
    """A stranger, a public app and another app learn nothing about a token they found."""
    told, _ = house.tokens()
    secretive = house.app(client_id="client-0007", proof=Proof.SECRET, secret_hash=hash_of("s3cret"))
    house.apps.register(secretive)
    form = {"token": told["access_token"]}
    assert house.ask("POST", "/smart/introspect", data=form).status_code == 401
    assert house.ask("POST", "/smart/introspect", data={**form, "client_id": ANOTHER}).status_code == 401
    other = {**form, "client_id": "client-0007", "client_secret": "s3cret"}
    assert house.ask("POST", "/smart/introspect", data=other).json() == {"active": False}


# --- traces ---------------------------------------------------------------------------------------------


def test_counting_under_a_ticket_leaves_a_line_in_the_patients_log(house: SmartHouse) -> None:
    """A clinician who only counts, by session and ticket: the gatekeeper's audit has it, as if records were read."""
    headers = {**house.session(house.world.bert), "x-consent-ticket": house.ticket().hex()}
    before = len(house.audit.entries())
    answer = house.ask("GET", "/fhir/Observation?_summary=count", headers=headers)
    assert answer.json()["total"] > 0
    (entry,) = house.audit.entries()[before:]
    assert (entry.read.requester, entry.read.code) == (house.world.bert.id, 0)


def test_secrets_in_files_and_logs(house: SmartHouse, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever copies the files of the gateway or reads its log finds no token, code, secret or handle."""
    told, _ = house.tokens()
    handle, _ = house.waiting()
    house.redeem("ccc_guessed")
    house.refresh(told["refresh_token"])
    house.refresh(told["refresh_token"])
    house.read(told["access_token"], "Observation?code=Geheimnis")
    captured = capsys.readouterr()
    output = (captured.out + captured.err).encode()
    files = b"".join(one.read_bytes() for one in house.folder.rglob("*") if one.is_file())
    for secret in (told["access_token"], told["refresh_token"], handle):
        assert secret.encode() not in files
        assert secret.encode() not in output
    assert b"Geheimnis" not in output


def test_foreign_page_reads_with_a_script(house: SmartHouse) -> None:
    """A page that is not a registered app's is not let read by browsers, and none is allowed credentials."""
    told, _ = house.tokens(SCOPES)
    for origin in ("https://evil.example.net", "null", "https://evil.example.", "http://127.0.0.1:90"):
        answer = house.read(told["access_token"], "Observation", origin=origin)
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers
