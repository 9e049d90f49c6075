"""Identity tokens (OpenID Connect): who approved, said to the app that asked for ``openid``, signed by the node (ID-4).

The key is for nothing else. It lies in ``gateway/identity.pem`` in the home, mode 0600, and is made when the file is
missing; an app fetches its public half from ``/smart/jwks``.
"""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from carechain.gateway.clients import Approver, Authorisation
from carechain.gateway.smart.tokens import ACCESS_S
from carechain.node.home import HomeUnusable
from carechain.sdk.keyfile import is_open_to_others, read_bounded, write_private_file

KEY_FILE: Final = Path("gateway") / "identity.pem"
"""In the home."""
ALGORITHM: Final = "RS256"
_BITS: Final = 2048
_EXPONENT: Final = 65537


class IdentityTokens:
    """Signs identity tokens for one FHIR server."""

    def __init__(self, key: RSAKey, *, issuer: str) -> None:
        """``issuer`` is the FHIR server's address."""
        self._key = key
        self._issuer = issuer
        key.ensure_kid()

    @classmethod
    def open(cls, path: Path, *, issuer: str) -> "IdentityTokens":
        """Read the key, or make it; raises :class:`HomeUnusable` and ``OSError``."""
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_BITS)
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private_file(path, pem, replace=False)
        if is_open_to_others(path.stat().st_mode):
            raise HomeUnusable(f"Others can read {path}. Set its mode to 0600.")
        try:
            key = RSAKey.import_key(read_bounded(path))
        except (JoseError, ValueError, TypeError):
            raise HomeUnusable(
                f"{path} holds no private key. Remove it: a new one is made at the next start."
            ) from None
        return cls(key, issuer=issuer)

    def public_keys(self) -> dict[str, object]:
        """The JSON Web Key Set."""
        public = self._key.as_dict(private=False, alg=ALGORITHM, use="sig")
        return {"keys": [public]}

    def token(self, authorisation: Authorisation, *, subject: str, nonce: str, now_s: int) -> str:
        """A signed token about who approved; with ``fhirUser`` where the app asked for it."""
        claims: dict[str, object] = {
            "iss": self._issuer,
            "aud": authorisation.client_id,
            "sub": subject,
            "iat": now_s,
            "exp": now_s + ACCESS_S,
        }
        if nonce:
            claims["nonce"] = nonce
        if {"fhirUser", "profile"}.intersection(authorisation.scopes):
            claims["fhirUser"] = self._fhir_user(authorisation)
        return jwt.encode({"alg": ALGORITHM, "kid": self._key.kid}, claims, self._key)

    def _fhir_user(self, authorisation: Authorisation) -> str:
        if authorisation.by is Approver.PATIENT:
            return f"{self._issuer}/Patient/{authorisation.patient}"
        return f"{self._issuer}/Practitioner/{authorisation.party.hex()}"
