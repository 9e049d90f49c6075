"""Hospital a with its FHIR server open: the small world, real charts, real tokens, no socket.

Goal: let a test be an app, a browser or an approver. Method: the gateway is assembled by its own code over the world's
ledger; requests go through its ASGI application on one event loop, and time is the world's.
"""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import msgspec
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from carechain.contracts.consent.schema import Revoke
from carechain.core.crypto import Suite
from carechain.core.vocabulary import PartyKind, Purpose, Sensitivity, mask
from carechain.gateway import main
from carechain.gateway.audit import OwnAudit
from carechain.gateway.clients import Apps, Client
from carechain.gateway.smart import scopes as smart
from carechain.node.mounting import Place
from carechain.node.settings import Settings
from carechain.sdk.apps import AppRequest
from carechain.sdk.authentication import OpenSession, Service, SessionBook, sign_opening
from carechain.sdk.identity import Identity
from house import House
from world import LATER_S, Actor, Signer, grant_of, seeded

ROOT = "http://fhir.test"
BASE = f"{ROOT}/fhir"
REDIRECT = "http://127.0.0.1:9000/back?keep=1"
VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
SCOPES = "launch/patient openid fhirUser offline_access patient/Observation.rs patient/Patient.rs"
SECRET = "a secret of 256 bits"


def identity_of(actor: Actor) -> Identity:
    """The key file of one of the world's people."""
    return Identity(
        kind=PartyKind.STAFF,
        suite=Suite.ED25519,
        signing_seed=seeded(actor.label, "signing"),
        hpke_seed=seeded(actor.label, "hpke"),
        party=actor.id,
        organisation=actor.organisation,
    )


class SmartHouse(House):
    """The hospital, its FHIR server and one registered app, which acts as nora the nurse."""

    def __init__(self, folder: Path, url: str = ROOT) -> None:
        super().__init__(folder)
        self.url = url
        self.apps = Apps.at(folder)
        self.own = OwnAudit.open(folder / "own.sqlite")
        self.identities = {"nora": identity_of(self.world.nora)}
        self.sessions = SessionBook(
            chain_id=self.ledger.chain_id,
            service=Service.NODE,
            server=self.world.a.id,
            known=lambda party: self.ledger.view().contracts.membership.party(party),  # noqa: PLW0108 - the latest view
        )
        place = Place(
            settings=Settings(home=folder),
            home=folder,
            ledger=self.ledger,
            identity=identity_of(self.world.a),
            sessions=self.sessions,
            charts=self.charts,
            audit=self.audit,
            url=url,
            clock=self.clock,
            entropy=os.urandom,
        )
        self.runner = asyncio.Runner()
        self.assembled = main._assembled(place, self.apps, self.own, self.unlock)
        self.mounted = self.runner.run(self.assembled.__aenter__())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.mounted.app), base_url=url)
        self.client = self.apps.register(self.app())

    def app(self, **changed: Any) -> Client:
        """An app as it could be registered."""
        told: dict[str, Any] = {
            "client_id": "client-0001",
            "name": "心电图 <Viewer>",
            "redirects": (REDIRECT,),
            "scopes": (*SCOPES.split(), "launch", "online_access", "user/*.cruds", "patient/*.cruds"),
            "acting": "nora",
            "party": self.world.nora.id,
        }
        return Client(**{**told, **changed})

    def unlock(self, name: str) -> Identity:
        """A key file by its name."""
        if name not in self.identities:
            raise FileNotFoundError(name)
        return self.identities[name]

    # --- asking -------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        return self.runner.run(self.http.request(method, path, **given))

    def session(self, by: Signer) -> dict[str, str]:
        """Signed in: the header to send along."""
        opening = sign_opening(
            by.signing,
            chain_id=self.ledger.chain_id,
            service=Service.NODE,
            server=self.world.a.id,
            party=by.id,
            time_s=self.clock(),
            nonce=os.urandom(16),
        )
        answer = self.ask("POST", "/smart/session", content=msgspec.msgpack.encode(opening))
        assert answer.status_code == 200, answer.text
        return {"authorization": f"Bearer {msgspec.msgpack.decode(answer.content, type=OpenSession).token}"}

    def authorize(self, **changed: str | None) -> httpx.Response:
        """A browser with an app's request."""
        told: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": REDIRECT,
            "scope": SCOPES,
            "state": "state &=?# 状态",
            "aud": f"{self.url}/fhir",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changed,
        }
        query = urlencode({name: value for name, value in told.items() if value is not None})
        return self.ask("GET", f"/smart/authorize?{query}")

    def waiting(self, **changed: str | None) -> tuple[str, str]:
        """A request that waits: the browser's handle and the shown code."""
        page = self.authorize(**changed)
        assert page.status_code == 200, (page.status_code, page.headers, page.text)
        code = page.text.partition("class=code>")[2].partition("<")[0]
        handle = page.text.partition("handle=")[2].partition("&#x27;")[0].partition("'")[0]
        return handle, code

    def shown(self, code: str, by: Signer) -> AppRequest:
        answer = self.ask("GET", f"/smart/approvals/{code}", headers=self.session(by))
        assert answer.status_code == 200, answer.text
        return msgspec.msgpack.decode(answer.content, type=AppRequest)

    def consent(self, scopes: str = SCOPES, **changed: Any) -> bytes:
        """The grant that steve gives for these scopes."""
        resources = smart.of_kind(scopes.split(), "patient", "user")
        told = {
            "scope": smart.grant_scope(resources, ceiling=Sensitivity.N),
            "actions": smart.actions_of(resources),
            "purposes": mask(Purpose.CAREMGT),
            "expires_s": LATER_S,
            **changed,
        }
        world = self.world
        return world.grant(grant_of(world.steve, world.nora, **told), by=world.steve)

    def answer(self, code: str, by: Signer, **told: object) -> httpx.Response:
        body = {"approve": True, **told}
        return self.ask("POST", f"/smart/approvals/{code}", headers=self.session(by), json=body)

    def wait(self, handle: str) -> httpx.Response:
        return self.ask("GET", "/smart/authorize/wait", params={"handle": handle})

    def approved(self, scopes: str = SCOPES, *, left: list[str] | None = None) -> tuple[str, bytes]:
        """An approved request: the code for the app, and the grant behind it."""
        handle, shown = self.waiting(scope=scopes)
        grant = self.consent(scopes)
        done = self.answer(shown, self.world.steve, grant=grant.hex(), scopes=left)
        assert done.status_code == 204, done.text
        back = query_of(self.wait(handle))
        return back["code"], grant

    def redeem(self, code: str, /, **changed: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": REDIRECT,
            "code_verifier": VERIFIER,
            "client_id": self.client.client_id,
            **changed,
        }
        return self.ask("POST", "/smart/token", data=form)

    def tokens(self, scopes: str = SCOPES) -> tuple[dict[str, Any], bytes]:
        """Tokens of an approved request, and the grant behind them."""
        code, grant = self.approved(scopes)
        answer = self.redeem(code)
        assert answer.status_code == 200, answer.text
        return answer.json(), grant

    def refresh(self, token: str, **changed: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.client.client_id, **changed}
        return self.ask("POST", "/smart/token", data=form)

    def read(self, token: str, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", f"/fhir/{path}", headers={"authorization": f"Bearer {token}", **headers})

    def revoke(self, grant: bytes) -> None:
        self.world.done(Revoke(pseudonym=self.world.steve.id, grant_id=grant), by=self.world.steve)

    def close(self) -> None:
        self.runner.run(self.http.aclose())
        self.runner.run(self.assembled.__aexit__(None, None, None))
        self.runner.close()
        self.apps.close()
        self.own.close()
        super().close()


def query_of(answer: httpx.Response) -> dict[str, str]:
    """The parameters that a redirect takes to the app."""
    assert answer.status_code == 303, (answer.status_code, answer.text)
    address = answer.headers["location"]
    assert address.startswith(REDIRECT), address
    return {name: value for name, (value,) in parse_qs(urlsplit(address).query, keep_blank_values=True).items()}


class KeyHolder:
    """A system that signs assertions."""

    def __init__(self, kind: str = "ES384") -> None:
        self.kind = kind
        self.key = (
            ECKey.generate_key("P-384", {"kid": "k1"}) if kind == "ES384" else RSAKey.generate_key(2048, {"kid": "k1"})
        )

    def jwks(self) -> bytes:
        """The public set."""
        return json.dumps({"keys": [self.key.as_dict(private=False)]}).encode()

    def assertion(self, client_id: str, now_s: int, *, header: Mapping[str, str] | None = None, **changed: Any) -> str:
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": f"{ROOT}/smart/token",
            "exp": now_s + 240,
            "jti": os.urandom(8).hex(),
            **changed,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode({"alg": self.kind, "kid": "k1", **(header or {})}, kept, self.key, algorithms=[self.kind])
