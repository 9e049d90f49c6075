"""What apps read before they ask: where to authorise and what is possible here (SMART App Launch 2.2, section 4)."""

from typing import Final

from carechain.gateway.smart.proof import ALGORITHMS

AUTHORIZE: Final = "/smart/authorize"
WAIT: Final = "/smart/authorize/wait"
TOKEN: Final = "/smart/token"  # noqa: S105 - a path
REVOKE: Final = "/smart/revoke"
INTROSPECT: Final = "/smart/introspect"
JWKS: Final = "/smart/jwks"
SESSION: Final = "/smart/session"
APPROVALS: Final = "/smart/approvals/{code}"
LAUNCH: Final = "/smart/launch"
CONFIGURATION: Final = "/.well-known/smart-configuration"
FHIR: Final = "/fhir"
_OAUTH_URIS: Final = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
_SECURITY_SERVICE: Final = "http://terminology.hl7.org/CodeSystem/restful-security-service"
CAPABILITIES: Final = (
    "launch-ehr",
    "launch-standalone",
    "authorize-post",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-ehr-patient",
    "context-standalone-patient",
    "permission-offline",
    "permission-online",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
)


def root_of(base_url: str) -> str:
    """The door's address: the FHIR server's without its own path."""
    return base_url.removesuffix(FHIR)


def configuration(base_url: str) -> dict[str, object]:
    """The document at ``.well-known/smart-configuration``; ``base_url`` is the FHIR server's address."""
    root = root_of(base_url)
    proofs = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
    return {
        "issuer": base_url,
        "jwks_uri": root + JWKS,
        "authorization_endpoint": root + AUTHORIZE,
        "token_endpoint": root + TOKEN,
        "revocation_endpoint": root + REVOKE,
        "introspection_endpoint": root + INTROSPECT,
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": [*proofs, "none"],
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "authorization_response_iss_parameter_supported": True,
        "scopes_supported": [
            "openid",
            "fhirUser",
            "launch",
            "launch/patient",
            "offline_access",
            "online_access",
            "patient/*.rs",
            "user/*.rs",
            "system/*.rs",
        ],
        "capabilities": list(CAPABILITIES),
    }


def openid_configuration(base_url: str) -> dict[str, object]:
    """The same for OpenID Connect Discovery."""
    return {
        **configuration(base_url),
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def security_block(base_url: str) -> dict[str, object]:
    """``CapabilityStatement.rest.security``: older apps read the addresses there."""
    root = root_of(base_url)
    addresses = {"authorize": AUTHORIZE, "token": TOKEN, "revoke": REVOKE, "introspect": INTROSPECT}
    return {
        "cors": True,
        "service": [{"coding": [{"system": _SECURITY_SERVICE, "code": "SMART-on-FHIR"}], "text": "SMART on FHIR"}],
        "extension": [
            {
                "url": _OAUTH_URIS,
                "extension": [{"url": name, "valueUri": root + path} for name, path in addresses.items()],
            }
        ],
        "description": (
            "Access tokens of SMART on FHIR, or a session of the ledger with tickets in X-Consent-Ticket. Every answer "
            "shows what live decisions on the ledger allow, and nothing else."
        ),
    }
