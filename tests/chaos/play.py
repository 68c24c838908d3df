"""A whole run: a cluster, a crowd, a storm, quiet, and then what was promised is looked at."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.connection import Connection
from protocol.errors import Quarantined
from tests.chaos.cluster import KEY, Cluster, cluster
from tests.chaos.crowd import Person, arrive, depart
from tests.chaos.invariants import Decode
from tests.chaos.ledger import SoundLedger, leftovers
from tests.chaos.schedule import schedule
from tests.chaos.storm import Storm

QUIET_S = 90.0
# What a question may end with instead of an answer: nobody had room for its session, or too many engines were killed
# over its work.
EXCUSES = ("worker_lost", Quarantined.code)
CRASHES = 3  # engines that are killed over a session's work before it is blamed


@dataclass(frozen=True)
class Cast:
    """The worker's command, what sessions are opened with, and how the worker's tokens read."""

    worker: Sequence[str]
    terms: dict[str, Any]
    decode: Decode


@dataclass
class Report:
    """``broken``: promises that did not hold, in words."""

    seed: int
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = " ".join(f"{kind} {count}" for kind, count in sorted(self.faults.items()))
        counts = " ".join(f"{name} {count}" for name, count in self.counts.items())
        failed = " ".join(f"{code} {count}" for code, count in sorted(self.failed.items())) or "none"
        verdict = "all promises held" if not self.broken else f"{len(self.broken)} promises broken"
        return f"seed {self.seed}, {self.seconds:.0f} s: {verdict}; {counts}; failed: {failed}; faults: {faults}"


def standin() -> Cast:
    """Workers whose engines have no model."""
    from tests.chaos.standin import spell

    return Cast([sys.executable, "-m", "tests.chaos.standin"], {"fps": 1.0}, spell)


def real(folder: Path) -> Cast:
    """Workers with the real engine and a model that babbles."""
    from tests.chaos.babbler import write_babbler
    from workers.models.tokenizer import Tokenizer

    write_babbler(folder)
    command = [sys.executable, "-m", "launcher.cli", "worker", "--model", str(folder)]
    return Cast(command, {"fps": 1.0, "budget_tokens": 1024}, Tokenizer.from_folder(folder).decode)


async def play(
    folder: Path,
    cast: Cast,
    *,
    seed: int,
    seconds: float,
    sessions: int = 10,
    gateways: int = 2,
    workers: int = 3,
    tell: Callable[[str], None],
) -> Report:
    """Runs in ``folder``, where the processes' logs stay."""
    report = Report(seed, seconds)
    async with cluster(folder, gateways=gateways, workers=workers, worker=cast.worker) as running:
        connection = Connection(running.bus_url)
        people = await arrive(running.addresses, KEY, sessions, seed=seed, terms=cast.terms, decode=cast.decode)
        ledger = SoundLedger(connection, [person.session_id for person in people])
        storm = Storm(running, people, tell)
        async with asyncio.TaskGroup() as group:
            lives = [group.create_task(person.run()) for person in people]
            others = [group.create_task(person.client.run()) for person in people]
            others.append(group.create_task(ledger.run()))
            await storm.run(schedule(seed, seconds))
            tell("quiet")
            await _settle(running, people, report)
            for person in people:
                person.leave()
            await asyncio.wait(lives)
            await _be_heard(people, report)
            for task in others:
                task.cancel()
        report.faults, report.missed = storm.done, storm.missed
        await ledger.read()
        _witness(people, ledger, report)
        await _close(running, connection, people, report)
        await connection.aclose()
    return report


async def _settle(running: Cluster, people: Sequence[Person], report: Report) -> None:
    """The cluster is whole again, all that was asked has its end, and one more question of each is answered."""
    began = time.monotonic()
    for person in people:
        person.hush()
    try:
        await running.until_ready()
        async with asyncio.timeout(QUIET_S):
            for person in people:
                if not person.client.closed:
                    await _rest(person)
    except TimeoutError:
        report.broken.append("after the storm the cluster does not come to rest")
    report.counts["settled_ms"] = round((time.monotonic() - began) * 1000)


async def _rest(person: Person) -> None:
    client = person.client
    await client.until_connected(seconds=QUIET_S)
    last = await person.ask()
    await client.until_ended([*person.questions, last], seconds=QUIET_S)


async def _be_heard(people: Sequence[Person], report: Report) -> None:
    """Whoever was there to the end has an acknowledgement of all that was said."""
    for client in (person.client for person in people if not person.client.closed):
        try:
            await client.until(lambda client=client: client.unsettled == 0, seconds=QUIET_S)  # type: ignore[misc]
        except TimeoutError:
            report.broken.append(f"{client.session_id}: {client.unsettled} pieces of sound are not acknowledged")


def _witness(people: Sequence[Person], ledger: SoundLedger, report: Report) -> None:
    for person in people:
        client = person.client
        report.broken += map(str, client.witness.finish())
        summary = client.witness.summary()
        report.failed.update(summary.failed)
        counts = {"accepted": summary.accepted, "answered": summary.done, "tokens": summary.tokens}
        report.counts.update({**counts, "epochs": summary.epochs, "connections": client.connections})
        if client.closed:
            report.counts[client.closed] += 1
            if client.closed != Quarantined.code or report.faults["engine"] < CRASHES:
                report.broken.append(f"{person.session_id} was closed: {client.closed}")
        else:
            _heard(person, ledger, report)
    for code, count in report.failed.items():
        if code not in EXCUSES:
            report.broken.append(f"{count} questions ended with {code}")
    refused = [code for person in people for code in person.client.refused.values()]
    if len(refused) > report.faults["decoder"]:  # a decoder that is lost takes the piece with it that it was at
        report.broken.append(f"{len(refused)} pieces of sound were refused: {', '.join(sorted(set(refused)))}")


def _heard(person: Person, ledger: SoundLedger, report: Report) -> None:
    """All that this person said has arrived: questions, and sound, once, save where it was refused."""
    client = person.client
    unheard = set(person.questions) - client.accepted - client.ended.keys()
    report.broken += [f"{question_id} was never accepted" for question_id in sorted(unheard)]
    reported = person.lost_sound()
    holes = ledger.holes(person.session_id, person.sound_ms, reported)
    report.broken += [f"{person.session_id} has no sound from {start} to {end} ms" for start, end in holes]
    if repeated := ledger.repeated_ms(person.session_id):
        report.broken.append(f"{person.session_id} has {repeated} ms of sound twice")
    report.counts.update(
        sound_s=person.sound_ms // 1000,
        refused_sound_ms=sum(end - start for start, end in reported),
    )


async def _close(running: Cluster, connection: Connection, people: Sequence[Person], report: Report) -> None:
    """Sessions closed, processes asked to end: nothing may stay."""
    try:
        await depart(running.addresses, KEY, people)
    except TimeoutError:
        report.broken.append("a session could not be closed")
    report.broken += running.crashes()
    for member in [*running.gateways, *running.workers]:
        status = await running.end(member)
        if status != 0:
            report.broken.append(f"{member.name} ended with {status} where it was asked to end")
    report.broken += await leftovers(connection, [person.session_id for person in people])
    report.broken += [f"{process} outlived its parent" for process in await running.survivors()]
