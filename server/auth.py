"""API keys and the tenants that they belong to. Keys are held as SHA-256 digests and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import Unauthorized

DIGEST = re.compile(r"[0-9a-f]{64}")
TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DEFAULT_TENANT = "default"
REREAD_S = 1.0  # a key that was taken out of the file stops working within this time


@dataclass(frozen=True)
class Key:
    """A key as it is kept: the SHA-256 digest alone."""

    tenant: str
    digest: bytes


def new_key() -> str:
    """A random key, good for 192 bits: digests of such keys need no salt and no slow hash."""
    return f"ll_{secrets.token_urlsafe(24)}"


def parse_keys(text: str) -> tuple[Key, ...]:
    """Keys separated by commas or line ends, each ``[tenant:]key`` or ``tenant:sha256:<hex>``; ``#`` begins a comment.

    Raises:
        ValueError: an entry has another form. The message never shows a key.
    """
    lines = (line.partition("#")[0] for line in text.splitlines())
    entries = [entry.strip() for line in lines for entry in line.split(",")]
    return tuple(_key(number, entry) for number, entry in enumerate(filter(None, entries), 1))


def _key(number: int, entry: str) -> Key:
    tenant, _, secret = entry.rpartition(":")
    if tenant.endswith(":sha256"):
        tenant, digest = tenant.removesuffix(":sha256"), secret
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"API key {number}: sha256 must be followed by 64 hexadecimal digits")
    else:
        tenant, digest = tenant or DEFAULT_TENANT, hashlib.sha256(secret.encode()).hexdigest()
        if len(secret) < 16:
            raise ValueError(f"API key {number} is shorter than 16 characters")
    if not TENANT.fullmatch(tenant):
        raise ValueError(f"API key {number}: a tenant's name is 1 to 64 letters, digits, dots, dashes or underscores")
    return Key(tenant, bytes.fromhex(digest))


class Keyring:
    """All keys that are good now: fixed ones, and those of a file that is read again when it changes."""

    def __init__(self, keys: tuple[Key, ...], file: Path | None = None) -> None:
        self._fixed = keys
        self._file = file
        self._stamp = (0, 0)
        self._checked_at = 0.0
        self._filed: tuple[Key, ...] = () if file is None else self._read(file)

    def tenant_of(self, key: str) -> str:
        """Raises Unauthorized."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for known in self._current():
            if hmac.compare_digest(known.digest, digest):
                found = known.tenant
        if found is None:
            raise Unauthorized("the API key is not known")
        return found

    def __len__(self) -> int:
        return len(self._current())

    def _current(self) -> tuple[Key, ...]:
        if self._file is not None and time.monotonic() - self._checked_at > REREAD_S:
            self._checked_at = time.monotonic()
            try:
                status = self._file.stat()
                if (status.st_mtime_ns, status.st_size) != self._stamp:
                    self._filed = self._read(self._file)
            except (OSError, ValueError):
                self._filed = ()  # a file that cannot be read lets nobody in
        return self._fixed + self._filed

    def _read(self, file: Path) -> tuple[Key, ...]:
        status = file.stat()
        self._stamp = (status.st_mtime_ns, status.st_size)
        return parse_keys(file.read_text())


def bearer(authorization: str | None, api_key: str | None) -> str:
    """The key that a request carries in ``Authorization: Bearer`` or ``x-api-key``. Raises Unauthorized."""
    if authorization:
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer" and key.strip():
            return key.strip()
    if api_key:
        return api_key.strip()
    raise Unauthorized("send the API key as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
