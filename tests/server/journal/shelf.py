"""A journal's parts on a disk of their own, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from server.journal.custodian import Custodian
from server.journal.entries import Head, Kind
from server.journal.recording import Recording
from server.journal.scribe import Record, Report, Scribe
from server.journal.vault import SessionKey, Vault
from server.settings import JournalSettings

SERVER_KEY = bytes(range(32))
SESSION, OTHER = f"s_{'a' * 24}", f"s_{'b' * 24}"


@dataclass
class Shelf:
    """``put`` writes records of one session, each a head and a body."""

    vault: Vault
    custodian: Custodian
    scribe: Scribe
    data: Path

    def put(self, key: SessionKey, *records: tuple[Head, bytes]) -> Report:
        (report,) = self.scribe.write([Record(key, head, body) for head, body in records])
        return report

    def reading(self, key: SessionKey) -> Recording:
        return Recording(self.custodian.folder(key.session_id), key)


def make_shelf(root: Path, *, tenant_bytes: int = 1 << 30, segment_bytes: int = 1 << 20) -> Shelf:
    settings = JournalSettings(
        dir=root, key=SecretStr(SERVER_KEY.hex()), tenant_bytes=tenant_bytes, segment_bytes=segment_bytes
    )
    vault = Vault(root / "keys", [SERVER_KEY])
    custodian = Custodian(root / "data", vault, tenant_bytes)
    return Shelf(vault, custodian, Scribe(custodian, settings), root / "data")


def frame(t_ms: int, body: bytes = b"jpeg", track: int = 0) -> tuple[Head, bytes]:
    return Head(kind=Kind.FRAME, t_ms=t_ms, track=track, codec="jpeg"), body


def media(t_ms: int, body: bytes, track: int = 0, codec: str = "h264") -> tuple[Head, bytes]:
    return Head(kind=Kind.MEDIA, t_ms=t_ms, track=track, codec=codec), body
