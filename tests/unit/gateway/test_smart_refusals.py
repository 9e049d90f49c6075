"""Goal: nothing gets an app in but the way that it is meant to, and every refusal says its own code and no more.

Method: one row per rejection code and per rule of OAuth that an attacker would try, against the gateway's own
application; redirects are looked at for where they lead, and files for what stands in them.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import ECKey, OctKey

from carechain.contracts.access import RequestAccess
from carechain.contracts.membership import DismissStaff
from carechain.core.rejection import Rejected
from carechain.core.vocabulary import Purpose, mask
from carechain.gateway.clients import Apps, Proof, hash_of, is_safe_address
from carechain.gateway.codes import SMART_STATUS, SmartCode
from carechain.gateway.smart.waiting import ASKING_PER_APP
from smart_house import BASE, REDIRECT, ROOT, SCOPES, KeyHolder, SmartHouse, query_of
from world import RESULTS, grant_of

JWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmartHouse]:
    """Shared: what is refused changes nothing."""
    house = SmartHouse(tmp_path_factory.mktemp("smart"))
    yield house
    house.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[SmartHouse]:
    house = SmartHouse(tmp_path)
    yield house
    house.close()


def label(answer: httpx.Response) -> str:
    """The code of a refusal: in FHIR's words, or in those of the paths for parties."""
    told = answer.json()
    if "label" in told:
        return str(told["label"])
    (issue,) = told["issue"]
    return str(issue["details"]["coding"][0]["code"])


# --- the authorize page ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"client_id": "somebody"},
        {"client_id": None},
        {"redirect_uri": None},
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": REDIRECT + "/"},
        {"redirect_uri": REDIRECT.replace("?keep=1", "")},
        {"redirect_uri": REDIRECT.replace("127.0.0.1", "LOCALHOST")},
        {"redirect_uri": REDIRECT.replace("/back", "/Back")},
        {"redirect_uri": REDIRECT + "&more=1"},
        {"redirect_uri": REDIRECT + "#x"},
        {"state": "s" * 3000},
    ],
)
def test_nothing_is_sent_to_an_address_that_is_not_registered(house: SmartHouse, changed: dict[str, str]) -> None:
    page = house.authorize(**changed)
    assert page.status_code == 400
    assert "location" not in page.headers
    assert "evil" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert page.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"aud": None}, "invalid_request"),
        ({"aud": "https://evil.example/fhir"}, "invalid_request"),
        ({"aud": BASE + "/../x"}, "invalid_request"),
        ({"scope": ""}, "invalid_scope"),
        ({"scope": "openid"}, "invalid_scope"),
        ({"scope": "system/*.rs"}, "invalid_scope"),
        ({"scope": "patient/Nothing.rs"}, "invalid_scope"),
        ({"scope": "patient/*.rs " * 2000}, "invalid_request"),
        ({"launch": "ccl_guessed"}, "invalid_request"),
    ],
)
def test_a_wrong_request_goes_back_with_the_apps_state(house: SmartHouse, changed: dict[str, str], error: str) -> None:
    back = query_of(house.authorize(**changed))
    assert back["error"] == error
    assert back["state"] == "state &=?# 状态"
    assert "code" not in back


def test_a_request_without_state_is_refused(house: SmartHouse) -> None:
    assert query_of(house.authorize(state=None))["error"] == "invalid_request"


def test_a_parameter_that_stands_twice_is_refused(house: SmartHouse) -> None:
    query = f"client_id={house.client.client_id}&client_id=x&redirect_uri={REDIRECT}"
    assert house.ask("GET", f"/smart/authorize?{query}").status_code == 400


def test_the_page_shows_an_apps_name_as_text(house: SmartHouse) -> None:
    page = house.authorize()
    assert "心电图 &lt;Viewer&gt;" in page.text
    assert "<Viewer>" not in page.text
    assert "script" not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"


def test_too_many_requests_of_one_app_wait(own: SmartHouse) -> None:
    for _ in range(ASKING_PER_APP):
        own.waiting()
    assert query_of(own.authorize())["error"] == "temporarily_unavailable"
    own.world.wait(601)
    own.waiting()


def test_one_address_may_not_ask_without_end(own: SmartHouse) -> None:
    answers = [own.ask("POST", "/smart/token", data={"grant_type": "x"}).status_code for _ in range(501)]
    assert answers[-1] == 429
    assert set(answers[:-1]) == {401}


# --- approving ------------------------------------------------------------------------------------------


def test_a_code_is_for_ten_minutes(own: SmartHouse) -> None:
    handle, shown = own.waiting()
    own.world.wait(601)
    refused = own.answer(shown, own.world.steve, grant=own.consent().hex())
    assert (refused.status_code, label(refused)) == (404, SmartCode.APPROVAL_UNKNOWN.label)
    assert own.wait(handle).status_code == 404


def test_an_unknown_code_and_an_unknown_handle(house: SmartHouse) -> None:
    assert label(house.answer("AAAA-BBBB", house.world.steve)) == SmartCode.APPROVAL_UNKNOWN.label
    assert house.wait("cch_guessed").status_code == 404


def test_a_code_is_approved_once(own: SmartHouse) -> None:
    _, shown = own.waiting()
    grant = own.consent().hex()
    assert own.answer(shown, own.world.steve, grant=grant).status_code == 204
    assert label(own.answer(shown, own.world.steve, grant=grant)) == SmartCode.APPROVAL_UNKNOWN.label


def _other_party(house: SmartHouse) -> bytes:
    world = house.world
    return world.grant(grant_of(world.steve, world.carl, purposes=mask(Purpose.CAREMGT)), by=world.steve)


def _other_purpose(house: SmartHouse) -> bytes:
    return house.consent(purposes=mask(Purpose.TREAT))


def _marys(house: SmartHouse) -> bytes:
    world = house.world
    return world.grant(grant_of(world.mary, world.nora, purposes=mask(Purpose.CAREMGT)), by=world.mary)


def _ended(house: SmartHouse) -> bytes:
    grant = house.consent()
    house.revoke(grant)
    return grant


@pytest.mark.parametrize("made", [_other_party, _other_purpose, _marys, _ended, lambda _: bytes(32)])
def test_a_grant_must_fit(house: SmartHouse, made: Callable[[SmartHouse], bytes]) -> None:
    _, shown = house.waiting()
    refused = house.answer(shown, house.world.steve, grant=made(house).hex())
    assert (refused.status_code, label(refused)) == (403, SmartCode.GRANT_NOT_FITTING.label)


def test_approving_takes_the_patient_or_staff_with_tickets(house: SmartHouse) -> None:
    world = house.world
    _, shown = house.waiting()
    grant = house.consent().hex()
    for by, told in (
        (world.carl, {"grant": grant}),
        (world.mary, {"grant": grant, "pseudonym": world.steve.id.hex()}),
        (world.carl, {}),
        (world.a, {"grant": grant, "pseudonym": world.steve.id.hex()}),
    ):
        assert label(house.answer(shown, by, **told)) == SmartCode.APPROVAL_NOT_YOURS.label


def test_an_approval_adds_no_scopes(house: SmartHouse) -> None:
    _, shown = house.waiting()
    grant = house.consent().hex()
    for scopes in (["patient/*.cruds"], ["openid"], [*SCOPES.split(), "patient/Condition.rs"]):
        refused = house.answer(shown, house.world.steve, grant=grant, scopes=scopes)
        assert label(refused) == SmartCode.SCOPE_NOT_ASKED.label


@pytest.mark.parametrize("body", ["", "{", "[]", '{"approve": 1}', '{"approve": true, "more": 1}', '{"grant": "ab"}'])
def test_a_malformed_answer(house: SmartHouse, body: str) -> None:
    _, shown = house.waiting()
    answer = house.ask("POST", f"/smart/approvals/{shown}", headers=house.session(house.world.steve), content=body)
    assert (answer.status_code, label(answer)) == (400, SmartCode.BODY_MALFORMED.label)


def test_a_patient_without_a_file_here(house: SmartHouse) -> None:
    world = house.world
    _, shown = house.waiting()
    refused = house.answer(shown, world.mary, grant=_marys(house).hex())
    assert (refused.status_code, label(refused)) == (409, SmartCode.PATIENT_UNKNOWN.label)


def test_codes_are_not_guessed_at_speed(own: SmartHouse) -> None:
    session = own.session(own.world.steve)
    answers = [own.ask("GET", f"/smart/approvals/AAAA-{n:04}", headers=session).status_code for n in range(31)]
    assert answers[-1] == 429


def test_an_app_cannot_approve_itself(own: SmartHouse) -> None:
    told, grant = own.tokens()
    _, shown = own.waiting()
    headers = {"authorization": f"Bearer {told['access_token']}"}
    body = {"approve": True, "grant": grant.hex()}
    assert own.ask("POST", f"/smart/approvals/{shown}", headers=headers, json=body).status_code == 401


# --- codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"code": "ccc_guessed"},
        {"code": ""},
        {"code_verifier": "w" * 64},
        {"code_verifier": ""},
        {"code_verifier": "v" * 129},
        {"redirect_uri": REDIRECT + "/"},
        {"redirect_uri": ""},
    ],
)
def test_a_code_is_bound_to_verifier_and_address(house: SmartHouse, changed: dict[str, str]) -> None:
    code, _ = house.approved()
    refused = house.redeem(code, **changed)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    if "code" not in changed:
        # It has been shown: even the right proof comes too late.
        assert house.redeem(code).status_code == 400


def test_a_code_lasts_a_minute(house: SmartHouse) -> None:
    code, _ = house.approved()
    house.world.wait(60)
    assert house.redeem(code).json()["error"] == "invalid_grant"


def test_a_code_is_the_apps_own(house: SmartHouse) -> None:
    house.apps.register(house.app(client_id="client-0009"))
    code, _ = house.approved()
    assert house.redeem(code, client_id="client-0009").json()["error"] == "invalid_grant"


def test_a_code_used_twice_ends_what_came_of_it(own: SmartHouse) -> None:
    code, _ = own.approved()
    told = own.redeem(code).json()
    assert own.read(told["access_token"], "Observation").status_code == 200
    assert own.redeem(code).status_code == 400
    assert own.read(told["access_token"], "Observation").status_code == 401
    assert own.refresh(told["refresh_token"]).json()["error"] == "invalid_grant"


# --- refresh tokens -------------------------------------------------------------------------------------


def test_a_refresh_token_is_replaced_and_its_second_use_ends_everything(own: SmartHouse) -> None:
    told, _ = own.tokens()
    fresh = own.refresh(told["refresh_token"]).json()
    assert fresh["refresh_token"] != told["refresh_token"]
    newest = own.refresh(fresh["refresh_token"]).json()
    assert own.refresh(told["refresh_token"]).json()["error"] == "invalid_grant"
    assert own.read(newest["access_token"], "Observation").status_code == 401
    assert own.refresh(newest["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_refresh_may_ask_for_less_and_never_for_more(own: SmartHouse) -> None:
    told, _ = own.tokens()
    less = own.refresh(told["refresh_token"], scope="patient/Observation.rs").json()
    assert less["scope"] == "patient/Observation.rs"
    assert own.read(less["access_token"], f"Patient/{told['patient']}").status_code == 403
    more = own.refresh(less["refresh_token"], scope="patient/Condition.rs")
    assert more.json()["error"] == "invalid_scope"


def test_tokens_are_told_apart(own: SmartHouse) -> None:
    told, _ = own.tokens()
    assert own.read(told["refresh_token"], "Observation").status_code == 401
    assert own.refresh(told["access_token"]).json()["error"] == "invalid_grant"
    own.apps.register(own.app(client_id="client-0009"))
    assert own.refresh(told["refresh_token"], client_id="client-0009").json()["error"] == "invalid_grant"


def test_without_offline_access_there_is_no_refresh_token(house: SmartHouse) -> None:
    told, _ = house.tokens("patient/Observation.rs")
    assert "refresh_token" not in told
    house.world.wait(901)
    assert house.read(told["access_token"], "Observation").status_code == 401


# --- the token endpoint ---------------------------------------------------------------------------------


def test_an_app_with_a_secret_must_show_it(own: SmartHouse) -> None:
    own.apps.register(own.app(proof=Proof.SECRET, secret_hash=hash_of("right: and 机密")))
    for auth in (None, (own.client.client_id, "wrong"), (own.client.client_id, ""), ("nobody", "x")):
        refused = own.ask("POST", "/smart/token", data={"grant_type": "refresh_token"}, auth=auth)
        assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
        assert refused.headers["www-authenticate"].startswith("Basic")
    code, _ = own.approved()
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": REDIRECT,
        "code_verifier": "v" * 64,
        "client_id": own.client.client_id,
        "client_secret": "right: and 机密",
    }
    assert own.ask("POST", "/smart/token", data=form).status_code == 200


def test_a_public_app_shows_no_secret(house: SmartHouse) -> None:
    form = {"grant_type": "refresh_token", "client_id": house.client.client_id, "client_secret": "x"}
    assert house.ask("POST", "/smart/token", data=form).json()["error"] == "invalid_client"


@pytest.mark.parametrize("kind", ["password", "implicit", "", "urn:ietf:params:oauth:grant-type:token-exchange"])
def test_other_ways_to_a_token_are_closed(house: SmartHouse, kind: str) -> None:
    form = {"grant_type": kind, "client_id": house.client.client_id}
    assert house.ask("POST", "/smart/token", data=form).json()["error"] == "unsupported_grant_type"


def test_a_public_app_gets_no_token_for_itself(house: SmartHouse) -> None:
    form = {"grant_type": "client_credentials", "client_id": house.client.client_id, "scope": "system/*.rs"}
    assert house.ask("POST", "/smart/token", data=form).json()["error"] == "unauthorized_client"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"grant_type": "x"}', "application/json"),
        ("a=1&a=2", "application/x-www-form-urlencoded"),
        ("x" * 70_000, "application/x-www-form-urlencoded"),
        ("a=%FF", "application/x-www-form-urlencoded"),
        ("&".join(f"a{n}=1" for n in range(40)), "application/x-www-form-urlencoded"),
    ],
)
def test_a_form_must_be_one(house: SmartHouse, content: str, kind: str) -> None:
    answer = house.ask("POST", "/smart/token", content=content, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


# --- assertions -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def holder(house: SmartHouse) -> KeyHolder:
    holder = KeyHolder()
    house.apps.register(
        house.app(
            client_id="lab-system", redirects=(), scopes=("system/*.rs",), proof=Proof.KEYS, keys=holder.jwks(),
            system=True, acting="", party=None,
        )
    )  # fmt: skip
    return holder


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "other-system"},
        {"sub": "other-system"},
        {"aud": BASE},
        {"aud": [f"{ROOT}/smart/token", "https://evil.example"]},
        {"aud": None},
        {"exp": None},
        {"exp": -40},
        {"exp": 400},
        {"exp": "soon"},
        {"exp": True},
        {"nbf": 100},
        {"jti": None},
        {"jti": ""},
        {"jti": "j" * 300},
    ],
)
def test_an_assertion_must_hold(house: SmartHouse, holder: KeyHolder, changed: dict[str, Any]) -> None:
    moved = {
        name: house.clock() + value if name in ("exp", "nbf") and type(value) is int else value
        for name, value in changed.items()
    }
    refused = asserted(house, holder.assertion("lab-system", house.clock(), **moved))
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")


def test_an_assertion_is_signed_with_a_registered_key(house: SmartHouse, holder: KeyHolder) -> None:
    assert asserted(house, KeyHolder().assertion("lab-system", house.clock())).status_code == 401
    good = holder.assertion("lab-system", house.clock())
    head, claims, signature = good.split(".")
    unsigned = "eyJhbGciOiJub25lIn0"
    for forged in (f"{unsigned}.{claims}.", f"{head}.{claims}.", f"{head}.{claims}", "x", "", f"{good}.{signature}"):
        assert asserted(house, forged).status_code == 401
    assert asserted(house, good).status_code == 200
    used = asserted(house, good)
    assert used.json()["error_description"] == SmartCode.ASSERTION_USED.reason


def test_an_assertion_is_not_used_twice_after_a_restart(house: SmartHouse, holder: KeyHolder) -> None:
    good = holder.assertion("lab-system", house.clock())
    assert asserted(house, good).status_code == 200
    with Apps.at(house.folder) as again:
        assert not again.use_assertion("lab-system", json_of(good)["jti"], until_s=1 << 40, now_s=house.clock())


def json_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def asserted(house: SmartHouse, assertion: str) -> httpx.Response:
    form = {
        "grant_type": "client_credentials",
        "scope": "system/*.rs",
        "client_assertion_type": JWT,
        "client_assertion": assertion,
    }
    return house.ask("POST", "/smart/token", data=form)


def test_a_system_gets_no_more_than_it_is_registered_for(house: SmartHouse, holder: KeyHolder) -> None:
    form = {
        "grant_type": "client_credentials",
        "scope": "system/*.cruds user/*.rs",
        "client_assertion_type": JWT,
        "client_assertion": holder.assertion("lab-system", house.clock()),
    }
    assert house.ask("POST", "/smart/token", data=form).json()["error"] == "invalid_scope"


# --- revoking and asking what a token is ----------------------------------------------------------------


def test_an_app_revokes_its_own_tokens(own: SmartHouse) -> None:
    told, _ = own.tokens()
    own.apps.register(own.app(client_id="client-0009"))
    form = {"token": told["refresh_token"], "client_id": "client-0009"}
    assert own.ask("POST", "/smart/revoke", data=form).status_code == 200
    assert own.read(told["access_token"], "Observation").status_code == 200
    form["client_id"] = own.client.client_id
    assert own.ask("POST", "/smart/revoke", data=form).status_code == 200
    assert own.read(told["access_token"], "Observation").status_code == 401
    assert own.ask("POST", "/smart/revoke", data={**form, "token": "nothing"}).status_code == 200


def test_what_a_token_is_is_told_to_those_who_prove_themselves(own: SmartHouse) -> None:
    told, _ = own.tokens()
    form = {"token": told["access_token"]}
    public = {**form, "client_id": own.client.client_id}
    assert own.ask("POST", "/smart/introspect", data=public).status_code == 401
    for client_id, system in (("partner-1", False), ("records-1", True)):
        own.apps.register(
            own.app(
                client_id=client_id, redirects=(), scopes=("system/*.rs",), proof=Proof.SECRET,
                secret_hash=hash_of("s"), acting="", system=system,
            )
        )  # fmt: skip
    assert own.ask("POST", "/smart/introspect", data=form, auth=("partner-1", "s")).json() == {"active": False}
    known = own.ask("POST", "/smart/introspect", data=form, auth=("records-1", "s")).json()
    assert known["active"]
    assert known["patient"] == told["patient"]
    assert own.world.steve.id.hex() not in str(known)


def test_removing_an_app_ends_its_tokens(own: SmartHouse) -> None:
    told, _ = own.tokens()
    assert own.apps.remove(own.client.client_id)
    assert own.read(told["access_token"], "Observation").status_code == 401
    assert own.authorize().status_code == 400
    assert not own.apps.remove(own.client.client_id)


# --- who calls the FHIR server --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, SmartCode.TOKEN_MISSING),
        ({"authorization": "Basic eA=="}, SmartCode.TOKEN_MISSING),
        ({"authorization": "Bearer "}, SmartCode.TOKEN_MISSING),
        ({"authorization": "Bearer cca_guessed"}, SmartCode.TOKEN_INVALID),
        ({"authorization": "Bearer " + "ab" * 32}, SmartCode.TOKEN_INVALID),
        ({"x-consent-ticket": "zz"}, SmartCode.TICKET_MALFORMED),
        ({"x-consent-ticket": "ab"}, SmartCode.TICKET_MALFORMED),
        ({"x-consent-ticket": ",".join(["ab" * 32] * 17)}, SmartCode.TICKET_MALFORMED),
        ({"x-consent-ticket": "ab" * 32}, SmartCode.TICKET_NOT_LIVE),
        ({"x-purpose-of-use": "FUN"}, SmartCode.PURPOSE_UNKNOWN),
    ],
)
def test_a_caller_that_is_not_known(house: SmartHouse, headers: dict[str, str], code: SmartCode) -> None:
    signed_in = {} if "authorization" in headers or not headers else house.session(house.world.bert)
    refused = house.ask("GET", "/fhir/Observation", headers={**signed_in, **headers})
    assert refused.status_code == SMART_STATUS[code]
    assert code.reason in refused.text


def test_a_party_that_is_no_longer_live(own: SmartHouse) -> None:
    session = own.session(own.world.carl)
    own.world.done(DismissStaff(party=own.world.carl.id), by=own.world.a)
    refused = own.ask("GET", "/fhir/Observation", headers=session)
    assert refused.status_code == 401
    assert SmartCode.NOT_LIVE.reason in refused.text


def test_a_ticket_for_another_custodian(house: SmartHouse) -> None:
    world = house.world
    world.grant(grant_of(world.steve_at_b, world.bert, scope=RESULTS), by=world.steve_at_b)
    asked = RequestAccess(pseudonym=world.steve_at_b.id, scope=RESULTS, purpose=Purpose.TREAT)
    ticket = world.request(asked, by=world.bert).ticket.hex()
    refused = house.ask("GET", "/fhir/Observation", headers={**house.session(world.bert), "x-consent-ticket": ticket})
    assert SmartCode.TICKET_NOT_LIVE.reason in refused.text


def test_an_app_whose_key_cannot_be_opened(own: SmartHouse) -> None:
    own.identities.clear()
    told, _ = own.tokens()
    refused = own.read(told["access_token"], "Observation")
    assert refused.status_code == SMART_STATUS[SmartCode.CLIENT_UNUSABLE]


# --- registering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"name": " "}, SmartCode.REGISTRATION_MALFORMED),
        ({"name": "a\nb"}, SmartCode.REGISTRATION_MALFORMED),
        ({"scopes": ()}, SmartCode.REGISTRATION_MALFORMED),
        ({"scopes": ("patient/*.rs", "everything")}, SmartCode.REGISTRATION_MALFORMED),
        ({"redirects": ()}, SmartCode.REGISTRATION_MALFORMED),
        ({"redirects": ("http://app.example/",)}, SmartCode.REDIRECT_UNSAFE),
        ({"launch_url": "javascript:alert(1)"}, SmartCode.REDIRECT_UNSAFE),
        ({"system": True}, SmartCode.SYSTEM_NEEDS_PROOF),
        ({"scopes": ("patient/*.rs", "system/*.rs")}, SmartCode.SYSTEM_NEEDS_PROOF),
        ({"party": None}, SmartCode.ACTING_PARTY_MISSING),
        ({"acting": ""}, SmartCode.ACTING_PARTY_MISSING),
        ({"proof": Proof.KEYS, "keys": b"{}"}, SmartCode.KEYS_UNUSABLE),
        ({"proof": Proof.KEYS, "keys": b""}, SmartCode.KEYS_UNUSABLE),
        ({"proof": Proof.KEYS, "keys": b'{"keys": []}'}, SmartCode.KEYS_UNUSABLE),
    ],
)
def test_what_cannot_be_registered(house: SmartHouse, changed: dict[str, Any], code: SmartCode) -> None:
    with pytest.raises(Rejected) as refused:
        house.apps.register(house.app(client_id="client-0042", **changed))
    assert refused.value.code is code
    assert house.apps.client("client-0042") is None


def test_only_public_strong_keys_are_registered(house: SmartHouse) -> None:
    holder = KeyHolder()
    private = json.dumps({"keys": [holder.key.as_dict(private=True)]}).encode()
    modulus = base64.urlsafe_b64encode((1 << 1023 | 1).to_bytes(128, "big")).decode().rstrip("=")
    weak = json.dumps({"keys": [{"kty": "RSA", "kid": "k", "n": modulus, "e": "AQAB"}]})
    p256 = json.dumps({"keys": [ECKey.generate_key("P-256", {"kid": "k"}).as_dict(private=False)]})
    shared = json.dumps({"keys": [OctKey.generate_key(256, {"kid": "k"}).as_dict()]})
    for keys in (private, weak.encode(), p256.encode(), shared.encode()):
        with pytest.raises(Rejected) as refused:
            house.apps.register(house.app(client_id="client-0042", proof=Proof.KEYS, keys=keys))
        assert refused.value.code is SmartCode.KEYS_UNUSABLE


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("https://app.example/cb", True),
        ("https://app.example:8443/cb?x=1", True),
        ("http://127.0.0.1:9000/cb", True),
        ("http://localhost/cb", True),
        ("http://[::1]:1/cb", True),
        ("com.example.app:/cb", True),
        ("https://", False),
        ("https:///cb", False),
        ("http://127.0.0.1.evil.example/", False),
        ("https://user@app.example/", False),
        ("https://app.example/#frag", False),
        ("https://app.example/ x", False),
        ("https://app.example\\@evil.example/", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("myapp:/cb", False),
        ("//app.example/cb", False),
        ("https://医院.example/", False),
        ("https://app.example:x/", False),
    ],
)
def test_where_codes_may_be_sent(address: str, safe: bool) -> None:  # noqa: FBT001
    assert is_safe_address(address) is safe


def test_no_secret_stands_in_the_file(own: SmartHouse) -> None:
    told, _ = own.tokens()
    own.apps.register(own.app(client_id="client-0002", proof=Proof.SECRET, secret_hash=hash_of("秘密 secret")))
    folder = own.folder / "gateway"
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    written = b"".join(path.read_bytes() for path in folder.glob("apps.sqlite*"))
    for secret in (told["access_token"], told["refresh_token"], "秘密 secret"):
        assert secret.encode() not in written
        assert secret.removeprefix("cca_").removeprefix("ccr_").encode() not in written


def test_every_code_has_a_status() -> None:
    assert set(SMART_STATUS) == set(SmartCode)
