"""The journal of one gateway: sessions that asked for it are recorded, read and erased through here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from protocol.errors import BadRequest, NoCapacity, NotFound
from protocol.messages import Notice, SessionSpec
from server.journal.backlog import Backlog
from server.journal.custodian import Custodian, Ward
from server.journal.recorder import NoRecorder, Recorder, SessionRecorder
from server.journal.recording import Recording
from server.journal.scribe import Report, Scribe
from server.journal.vault import KeyMissing, Vault, WrongServerKey, parse_server_keys
from server.metrics import Metrics
from server.settings import JournalSettings

logger = logging.getLogger(__name__)

REST_S = 1.0  # segments are looked at for their age so often
KEEP_S = 60.0  # expired segments likewise
IDLE_S = 900.0  # a recorder that nobody used for longer is let go: the bus forgets such a session

Tell = Callable[[str, Notice], None]
TROUBLES = {
    "disk_full": "the journal's disk is full: nothing more is recorded for now",
    "quota": "the tenant's quota is full of what is kept for ever: nothing more is recorded for now",
    "erased": "the recording was erased: nothing more is recorded",
    "failed": "the journal cannot be written: nothing more is recorded for now",
}


class Journal(Protocol):
    """What the rest of the gateway knows of the journal."""

    async def admit(self, spec: SessionSpec) -> None:
        """Make room for a new session that asks to be recorded. Raises BadRequest, NoCapacity."""

    async def recorder(self, spec: SessionSpec) -> Recorder:
        """Where the session's media and questions are kept, if anywhere."""

    def known(self, session_id: str) -> Recorder:
        """The recorder of a session that is recorded here at the moment."""

    async def erase(self, tenant: str, session_id: str) -> bool:
        """Destroy a tenant's recording; False where there is none. Raises NoCapacity where the disk refuses."""

    async def recording(self, tenant: str, session_id: str) -> Recording:
        """A tenant's recording, to be read on a thread. Raises NotFound, NoCapacity."""

    async def recordings(self, tenant: str) -> list[Ward]:
        """All recordings of a tenant."""

    async def run(self) -> None:
        """Write what comes until cancelled."""

    async def keep(self, alive: Callable[[str], Awaitable[bool]]) -> None:
        """Apply retention now and then until cancelled; ``alive`` says whether a session may still be written to."""


class NoJournal:
    """A gateway without a journal: no session can ask for one."""

    async def admit(self, spec: SessionSpec) -> None:
        if spec.store is not None:
            raise BadRequest("this gateway keeps no journal", param="store")

    async def recorder(self, spec: SessionSpec) -> Recorder:
        return NoRecorder()

    def known(self, session_id: str) -> Recorder:
        return NoRecorder()

    async def erase(self, tenant: str, session_id: str) -> bool:
        return False

    async def recording(self, tenant: str, session_id: str) -> Recording:
        raise NotFound("nothing of this session is stored")

    async def recordings(self, tenant: str) -> list[Ward]:
        return []

    async def run(self) -> None:
        return

    async def keep(self, alive: Callable[[str], Awaitable[bool]]) -> None:
        return


class DiskJournal:
    """Recordings in encrypted segments on disk; one task writes, on a thread, and no caller ever waits for it."""

    def __init__(self, settings: JournalSettings, folder: Path, metrics: Metrics, tell: Tell) -> None:
        """Raises OSError, ValueError (the server's key)."""
        self._vault = open_vault(settings, folder)
        self._custodian = Custodian(folder / "data", self._vault, settings.tenant_bytes)
        self._scribe = Scribe(self._custodian, settings)
        self._backlog = Backlog(settings.queue_bytes)
        self._recorders: dict[str, SessionRecorder] = {}
        self._troubled: dict[str, str] = {}
        self._metrics = metrics
        self._tell = tell

    # --- writing ------------------------------------------------------------------------------------------------------

    async def admit(self, spec: SessionSpec) -> None:
        if spec.store is None:
            return
        hours = spec.store.retention_hours
        try:
            key = await asyncio.to_thread(self._custodian.admit, spec.session_id, spec.tenant, hours)
        except OSError as error:
            raise _unavailable(error) from error
        self._recorders[spec.session_id] = SessionRecorder(key, self._backlog)

    async def recorder(self, spec: SessionSpec) -> Recorder:
        session_id = spec.session_id
        if spec.store is None:
            return NoRecorder()
        if session_id not in self._recorders:
            try:
                key = await asyncio.to_thread(self._vault.open, session_id)
            except (KeyMissing, WrongServerKey, OSError) as error:
                logger.warning(
                    "a session cannot be recorded: %s", type(error).__name__, extra={"session_id": session_id}
                )
                self._say(session_id, "journal_stopped", TROUBLES["failed"], {"reason": "key"})
                return NoRecorder()
            self._recorders.setdefault(session_id, SessionRecorder(key, self._backlog))
        recorder = self._recorders[session_id]
        recorder.used_at = time.monotonic()
        return recorder

    def known(self, session_id: str) -> Recorder:
        return self._recorders.get(session_id) or NoRecorder()

    async def run(self) -> None:
        try:
            while True:
                await self._backlog.wait(REST_S)
                try:
                    await self._write()
                    await asyncio.to_thread(self._scribe.rest)
                except Exception:
                    logger.exception("a batch of the journal is lost")  # which must not end the gateway
        finally:
            while self._backlog.depth:
                await self._write()
            await asyncio.to_thread(self._scribe.close)

    async def _write(self) -> None:
        batch = self._backlog.take()
        reports = await asyncio.to_thread(self._scribe.write, batch) if batch else []
        for session_id, dropped in self._backlog.dropped().items():
            self._lost(session_id, dropped, "backlog")
            data: dict[str, int | float | str] = {"records": dropped, "reason": "backlog"}
            self._say(session_id, "journal_dropped", "the disk is too slow: records were not kept", data)
        for report in reports:
            self._heed(report)
        self._metrics.journal_queue.set(self._backlog.bytes)

    def _heed(self, report: Report) -> None:
        session_id, trouble = report.session_id, report.trouble
        self._metrics.journal_bytes.inc(report.bytes)
        self._metrics.journal_records.inc(report.written)
        self._lost(session_id, report.lost, trouble)
        before = self._troubled.get(session_id, "")
        if trouble == before:
            return
        if trouble:
            self._troubled[session_id] = trouble
            logger.warning("a session is not recorded: %s", trouble, extra={"session_id": session_id})
            self._say(session_id, "journal_stopped", TROUBLES[trouble], {"reason": trouble})
        else:
            del self._troubled[session_id]
            self._say(session_id, "journal_resumed", "the session is recorded again", {})

    def _lost(self, session_id: str, records: int, reason: str) -> None:
        if records:
            self._metrics.journal_dropped.labels(reason).inc(records)

    def _say(self, session_id: str, code: str, message: str, data: dict[str, int | float | str]) -> None:
        self._tell(session_id, Notice(code=code, message=message, data=data))

    # --- reading ------------------------------------------------------------------------------------------------------

    async def recording(self, tenant: str, session_id: str) -> Recording:
        try:
            key = await asyncio.to_thread(self._vault.open, session_id)
        except KeyMissing:
            raise NotFound("nothing of this session is stored") from None
        except (WrongServerKey, OSError) as error:
            raise _unavailable(error) from error
        if key.tenant != tenant:
            raise NotFound("nothing of this session is stored")
        return Recording(self._custodian.folder(session_id), key)

    async def recordings(self, tenant: str) -> list[Ward]:
        return await asyncio.to_thread(self._custodian.wards, tenant)

    # --- what is to be gone -------------------------------------------------------------------------------------------

    async def erase(self, tenant: str, session_id: str) -> bool:
        try:
            await self.recording(tenant, session_id)
        except NotFound:
            return False
        await self._erase(session_id)
        return True

    async def keep(self, alive: Callable[[str], Awaitable[bool]]) -> None:
        while True:
            try:
                await self._expire(alive)
            except Exception as error:
                logger.warning("retention could not be applied: %s", type(error).__name__)
            await asyncio.sleep(KEEP_S)

    async def _expire(self, alive: Callable[[str], Awaitable[bool]]) -> None:
        await asyncio.to_thread(self._custodian.sweep)
        for session_id in await asyncio.to_thread(self._custodian.expire, time.time()):
            if not await alive(session_id):
                await self._erase(session_id)
        sessions, held = await asyncio.to_thread(self._custodian.totals)
        self._metrics.journal_sessions.set(sessions)
        self._metrics.journal_held.set(held)
        idle_since = time.monotonic() - IDLE_S
        for session_id, recorder in list(self._recorders.items()):
            if recorder.used_at < idle_since:
                del self._recorders[session_id]
                await asyncio.to_thread(self._scribe.finish, session_id)

    async def _erase(self, session_id: str) -> None:
        recorder = self._recorders.pop(session_id, None)
        if recorder is not None:
            recorder.close()
        self._troubled.pop(session_id, None)
        self._backlog.forget(session_id)
        try:
            await asyncio.to_thread(self._scribe.erase, session_id)
        except OSError as error:
            raise _unavailable(error) from error


def open_vault(settings: JournalSettings, folder: Path) -> Vault:
    """The vault of the journal in ``folder``. Raises OSError, ValueError (the server's key)."""
    given = settings.key.get_secret_value()
    text = given if settings.key_file is None else f"{given} {settings.key_file.read_text()}"
    return Vault(settings.keys_dir or folder / "keys", parse_server_keys(text))


def _unavailable(error: Exception) -> NoCapacity:
    logger.error("the journal does not work: %s", type(error).__name__)
    return NoCapacity("the journal's disk or key cannot be used", retry_after=10.0)
