"""An issuer of signed tokens for tests: its keys, the file that publishes them, and tokens good and bad."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://sso.example", "agent-service"
LONG = 3600


class Issuer:
    """Signs tokens; `jwks` is the document that its keys are published in."""

    def __init__(self) -> None:
        """Make its keys."""
        self.keys: dict[str, Any] = {
            "ec": ec.generate_private_key(ec.SECP256R1()),
            "rsa": rsa.generate_private_key(65537, 2048),
            "ed": ed25519.Ed25519PrivateKey.generate(),
        }
        self.published = ["ec", "rsa", "ed"]

    @property
    def jwks(self) -> dict[str, Any]:
        """The public keys that are published."""
        return {"keys": [self.public(kid) for kid in self.published]}

    def public(self, kid: str) -> dict[str, Any]:
        """One public key."""
        kind: Any = {"ec": ECAlgorithm, "rsa": RSAAlgorithm, "ed": OKPAlgorithm}[kid]
        alg = {"ec": "ES256", "rsa": "RS256", "ed": "EdDSA"}[kid]
        return {**json.loads(kind.to_jwk(self.keys[kid].public_key())), "kid": kid, "alg": alg, "use": "sig"}

    def publish(self, file: Path) -> Path:
        """Write the key set."""
        file.write_text(json.dumps(self.jwks))
        return file

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Claims of a good token; None leaves one out."""
        now = time.time()
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "user-1",
            "email": "ada@example.com",
            "groups": ["staff", "agents-red"],
            "iat": int(now),
            "exp": now + LONG,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, key: str = "ec", alg: str = "", headers: dict[str, Any] | None = None, **changed: Any) -> str:
        """A token, good unless something is changed."""
        alg = alg or {"ec": "ES256", "rsa": "RS256", "ed": "EdDSA"}[key]
        return jwt.encode(
            self.claims(**changed), self.keys[key], algorithm=alg, headers={"kid": key, **(headers or {})}
        )
