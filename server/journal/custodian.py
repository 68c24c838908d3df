"""Keeps the journal's folders within their bounds: quotas, retention, and what is to be gone.

Everything here is read from the disk, so that gateways which share it agree without talking to each other.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from protocol import ids
from server.journal import segments
from server.journal.folders import sync_folder
from server.journal.vault import KeyMissing, SessionKey, Vault, WrongServerKey

HOUR_S = 3600.0
ERASED = ".erased-"


class QuotaFull(OSError):
    """The tenant's quota is full of what was to be kept for ever."""


@dataclass(frozen=True)
class Ward:
    """A recorded session as the custodian knows it: no secrets."""

    session_id: str
    tenant: str
    created_at: float
    retention_hours: float | None

    @classmethod
    def of(cls, key: SessionKey) -> Ward:
        return cls(key.session_id, key.tenant, key.created_at, key.retention_hours)


class Held(NamedTuple):
    """A segment on disk, index included. Sorts by age."""

    written_at: float
    path: Path
    bytes: int


class Custodian:
    """Blocking. ``data`` holds one folder for each session; keys are in the vault, perhaps on another volume."""

    def __init__(self, data: Path, vault: Vault, tenant_bytes: int) -> None:
        self._data = data
        self._vault = vault
        self._tenant_bytes = tenant_bytes
        self._wards: dict[str, Ward] = {}
        data.mkdir(mode=0o700, parents=True, exist_ok=True)

    def folder(self, session_id: str) -> Path:
        return self._data / session_id

    def admit(self, session_id: str, tenant: str, retention_hours: float | None) -> SessionKey:
        """Make room for a new session: its key first, since data without one is swept away. Raises OSError."""
        key = self._vault.create(session_id, tenant, time.time(), retention_hours)
        self.folder(session_id).mkdir(mode=0o700)
        sync_folder(self._data)
        return key

    def wards(self, tenant: str | None = None) -> list[Ward]:
        """The sessions recorded here, of one tenant or of all. Those whose key cannot be opened are left out."""
        names = self._vault.sessions()
        self._wards = {name: self._wards[name] for name in names if name in self._wards}
        for name in names:
            if name not in self._wards:
                try:
                    self._wards[name] = Ward.of(self._vault.open(name))
                except (KeyMissing, WrongServerKey, OSError):
                    continue
        return [ward for ward in self._wards.values() if tenant in (None, ward.tenant)]

    def held(self, session_id: str) -> list[Held]:
        return list(_held(self.folder(session_id)))

    def make_room(self, tenant: str, wanted: int) -> None:
        """Remove the tenant's oldest segments until ``wanted`` more bytes fit its quota; never those of sessions that
        are kept for ever.

        Raises:
            QuotaFull: nothing more may be removed.
        """
        wards = self.wards(tenant)
        found = {ward: self.held(ward.session_id) for ward in wards}
        used = sum(held.bytes for all_held in found.values() for held in all_held)
        expendable = sorted(held for ward in wards if ward.retention_hours is not None for held in found[ward])
        for held in expendable:
            if used + wanted <= self._tenant_bytes:
                return
            segments.remove(held.path)
            used -= held.bytes
        if used + wanted > self._tenant_bytes:
            raise QuotaFull("the tenant's quota is full")

    def expire(self, now: float) -> list[str]:
        """Remove the segments that are older than their session's retention (``now`` in Unix seconds).

        Returns:
            Sessions of which nothing is left and that are past their time themselves: to be erased unless they live.
        """
        past: list[str] = []
        for ward in self.wards():
            if ward.retention_hours is None:
                continue
            oldest = now - ward.retention_hours * HOUR_S
            held = self.held(ward.session_id)
            for segment in held:
                if segment.written_at < oldest:
                    segments.remove(segment.path)
            if ward.created_at < oldest and all(segment.written_at < oldest for segment in held):
                past.append(ward.session_id)
        return past

    def erase(self, session_id: str) -> bool:
        """Destroy the session's key, then its data; False where there was no key. Raises OSError."""
        destroyed = self._vault.destroy(session_id)
        self._wards.pop(session_id, None)
        self._discard(session_id)
        return destroyed

    def sweep(self) -> None:
        """Finish what a crash interrupted: data without a key, and data that were being erased. Raises OSError."""
        for name in os.listdir(self._data):
            if name.startswith(ERASED):
                shutil.rmtree(self._data / name, ignore_errors=True)
            elif ids.is_session_id(name) and not self._vault.holds(name):
                self._discard(name)

    def totals(self) -> tuple[int, int]:
        """Sessions recorded, and bytes on disk."""
        wards = self.wards()
        return len(wards), sum(held.bytes for ward in wards for held in self.held(ward.session_id))

    def _discard(self, session_id: str) -> None:
        # Under another name first: a gateway that still writes finds no folder for its next segment.
        doomed = self._data / f"{ERASED}{session_id}-{secrets.token_hex(4)}"
        try:
            self.folder(session_id).rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)  # another gateway may be sweeping it
        if doomed.exists():
            raise OSError("the data of an erased session cannot be removed; its key is destroyed")
        sync_folder(self._data)


def _held(folder: Path) -> Iterator[Held]:
    for path in segments.segment_paths(folder):
        try:
            found = path.stat()
            index = path.with_suffix(segments.INDEX)
            yield Held(found.st_mtime, path, found.st_size + (index.stat().st_size if index.exists() else 0))
        except FileNotFoundError:
            continue  # another gateway removed it just now
