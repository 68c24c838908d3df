"""Proof of a user and password to a server that asks for it: HTTP Basic (RFC 7617) and Digest (RFC 7616, RFC 2069)."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
SCHEME = re.compile(r"^\s*(digest|basic)\b\s*", re.IGNORECASE)
HASHES = {"md5": "md5", "sha-256": "sha256"}


@dataclass(frozen=True)
class Challenge:
    """What a server wants: ``parameters`` are realm, nonce and so on, empty for Basic."""

    scheme: str
    parameters: dict[str, str]

    @property
    def algorithm(self) -> str:
        return self.parameters.get("algorithm", "MD5")


def strongest(headers: list[str]) -> Challenge | None:
    """The best of the ``WWW-Authenticate`` headers that can be met, None if there is none."""
    challenges = [challenge for header in headers if (challenge := _challenge(header)) is not None]
    return max(challenges, key=_strength, default=None)


def _challenge(header: str) -> Challenge | None:
    scheme = SCHEME.match(header)
    if scheme is None:
        return None
    pairs = PARAMETER.findall(header[scheme.end() :])
    parameters = {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare for name, quoted, bare in pairs}
    challenge = Challenge(scheme[1].lower(), parameters)
    if challenge.scheme == "digest" and (challenge.algorithm.lower() not in HASHES or "nonce" not in parameters):
        return None
    return challenge


def _strength(challenge: Challenge) -> int:
    return 0 if challenge.scheme == "basic" else 1 + (challenge.algorithm.lower() == "sha-256")


@dataclass
class Credentials:
    """Answers one server's challenges; ``seen`` counts the requests made under the newest nonce."""

    user: str
    password: str = field(repr=False)
    _challenge: Challenge | None = None
    _count: int = 0

    def accept(self, headers: list[str]) -> bool:
        """A request was refused with these ``WWW-Authenticate`` headers; whether another try makes sense."""
        challenge = strongest(headers) if self.user or self.password else None
        again = self._challenge is None or (
            challenge is not None and challenge.parameters.get("stale", "").lower() == "true"
        )
        self._challenge, self._count = challenge, 0
        return challenge is not None and again

    def header(self, method: str, uri: str) -> str | None:
        """The ``Authorization`` of a request, None while nobody asked for it."""
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        self._count += 1
        return self._digest(self._challenge, method, uri)

    def _digest(self, challenge: Challenge, method: str, uri: str) -> str:
        given = challenge.parameters
        name = HASHES[challenge.algorithm.lower()]

        def digest(*parts: str) -> str:
            return hashlib.new(name, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

        secret = digest(self.user, given.get("realm", ""), self.password)
        fields = {"username": self.user, "realm": given.get("realm", ""), "nonce": given["nonce"], "uri": uri}
        bare = {"algorithm": challenge.algorithm} if "algorithm" in given else {}
        if "auth" in [word.strip() for word in given.get("qop", "").split(",")]:
            count, ours = f"{self._count:08x}", secrets.token_hex(8)
            fields["response"] = digest(secret, given["nonce"], count, ours, "auth", digest(method, uri))
            fields["cnonce"] = ours
            bare |= {"qop": "auth", "nc": count}
        else:
            fields["response"] = digest(secret, given["nonce"], digest(method, uri))
        if "opaque" in given:
            fields["opaque"] = given["opaque"]
        quoted = [f'{key}="{_escaped(value)}"' for key, value in fields.items()]
        return "Digest " + ", ".join([*quoted, *(f"{key}={value}" for key, value in bare.items())])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
