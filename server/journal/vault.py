"""Keys of recorded sessions, each sealed under the server's key in a file of its own, apart from what it opens.

Destroying that file is what erases a session: without it, every copy of the session's data is noise.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol import ids
from server.journal.folders import replace_file, sync_folder

MAGIC = b"LLK1"
KEY_BYTES = 32
NAME_BYTES = 8  # of the server's key that a file is sealed under
NONCE_BYTES = 12


class KeyMissing(LookupError):
    """No key of the session is here: it was never recorded, or it was erased."""


class WrongServerKey(ValueError):
    """A session's key is here, but it cannot be opened: it was sealed under another server key, or is damaged."""


class SessionKey(msgspec.Struct, frozen=True, kw_only=True):
    """A session's data key, and what must outlive the session's record on the bus.

    Args:
        created_at: Unix seconds.
        retention_hours: how long after it was written data is kept, None for ever.
    """

    session_id: str
    tenant: str
    created_at: float
    retention_hours: float | None
    secret: bytes

    def cipher(self, salt: bytes, purpose: str) -> AESGCM:
        """The cipher of one file: HKDF (RFC 5869) gives each file a key of its own, so that nonces may count from 0."""
        info = f"longlook journal {self.session_id} {purpose}".encode()
        return AESGCM(HKDF(hashes.SHA256(), KEY_BYTES, salt, info).derive(self.secret))


class Vault:
    """One folder of sealed session keys.

    Args:
        server_keys: 32 bytes each; the first seals new keys, all of them open what they sealed.
    """

    def __init__(self, folder: Path, server_keys: Sequence[bytes]) -> None:
        self._folder = folder
        self._server_keys = {_name(key): AESGCM(key) for key in server_keys}
        self._newest = _name(server_keys[0])
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, session_id: str, tenant: str, created_at: float, retention_hours: float | None) -> SessionKey:
        """Make a session's key; it is on disk when this returns. Raises OSError."""
        key = SessionKey(
            session_id=session_id,
            tenant=tenant,
            created_at=created_at,
            retention_hours=retention_hours,
            secret=os.urandom(KEY_BYTES),
        )
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._server_keys[self._newest].encrypt(nonce, msgspec.msgpack.encode(key), session_id.encode())
        replace_file(self._folder / session_id, MAGIC + self._newest + nonce + sealed, durable=True)
        return key

    def open(self, session_id: str) -> SessionKey:
        """Raises KeyMissing, WrongServerKey, OSError."""
        try:
            data = (self._folder / session_id).read_bytes()
        except FileNotFoundError:
            raise KeyMissing(session_id) from None
        name, nonce, sealed = _fields(data)
        try:
            plain = self._server_keys[name].decrypt(nonce, sealed, session_id.encode())
            return msgspec.msgpack.decode(plain, type=SessionKey)
        except (KeyError, InvalidTag, msgspec.MsgspecError):
            raise WrongServerKey("a session's key cannot be opened with the server keys that are set") from None

    def destroy(self, session_id: str) -> bool:
        """Overwrite a key and remove it; False where there was none. Raises OSError."""
        path = self._folder / session_id
        try:
            descriptor = os.open(path, os.O_WRONLY)
        except FileNotFoundError:
            return False
        try:
            os.write(descriptor, os.urandom(os.fstat(descriptor).st_size))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.unlink(missing_ok=True)
        sync_folder(self._folder)
        return True

    def holds(self, session_id: str) -> bool:
        return (self._folder / session_id).exists()

    def sessions(self) -> list[str]:
        """Ids of the sessions whose keys are here, oldest id first."""
        return sorted(name for name in os.listdir(self._folder) if ids.is_session_id(name))


def parse_server_keys(text: str) -> list[bytes]:
    """Keys as 64 hexadecimal digits each, separated by white space. Raises ValueError, which never shows a key."""
    keys: list[bytes] = []
    for word in text.split():
        try:
            key = bytes.fromhex(word)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a journal key is {2 * KEY_BYTES} hexadecimal digits, as `openssl rand -hex 32` prints")
        keys.append(key)
    if not keys:
        raise ValueError("no journal key is given")
    return keys


def _name(key: bytes) -> bytes:
    return hashlib.sha256(b"longlook server key" + key).digest()[:NAME_BYTES]


def _fields(data: bytes) -> tuple[bytes, bytes, bytes]:
    head = len(MAGIC) + NAME_BYTES
    if not data.startswith(MAGIC):
        return b"", b"", b""
    return data[len(MAGIC) : head], data[head : head + NONCE_BYTES], data[head + NONCE_BYTES :]
