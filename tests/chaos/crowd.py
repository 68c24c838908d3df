"""People before their cameras: each shows pictures and sound, and asks, through whatever happens."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx
from PIL import Image

from tests.chaos.client import Client
from tests.chaos.invariants import Decode
from tests.e2e.eventually import eventually

BEAT_S = 0.5
SOUND_S = 0.5  # in each piece: five of the pieces that lie in the lane
BEATS_PER_PICTURE = 4
BYTES_PER_S = 32_000
ASK_CHANCE = 0.2  # each beat
LONGEST = 120  # tokens
WAITING = 6  # questions that one person leaves open at a time
CANCEL_CHANCE = 0.05
REST_S = 60.0
QUESTIONS = ("What is there now?", "What changed?", "Is there a red ball?", "How many are there?")
NOT_A_PICTURE = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x10\x03" + bytes(60) + b"\xff\xd9"  # a header, then nothing


def picture(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (160, 120), (shade % 256, (shade * 7) % 256, 90)).save(out, "JPEG")
    return out.getvalue()


class Person:
    """One session. ``run`` lasts until ``leave``; questions stop with ``hush``."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.session_id = client.session_id
        self.questions: list[str] = []
        self.sound_ms = 0
        self._chance = random.Random(seed)
        self._asking = True
        self._staying = True
        self._poisoned = 0

    async def run(self) -> None:
        """Shows and asks until told to leave."""
        beat = 0
        while self._staying:
            await self.client.sound(self._noise(), self.sound_ms / 1000)
            self.sound_ms += round(SOUND_S * 1000)
            if beat % BEATS_PER_PICTURE == 0:
                await self.client.picture(picture(beat), beat * BEAT_S)
            if self._asking and self._chance.random() < ASK_CHANCE and self._open < WAITING:
                await self.ask()
            if beat % 2:
                await self.client.ask_again()
            beat += 1
            await asyncio.sleep(BEAT_S)

    async def ask(self) -> str:
        """A question of a random kind: its id."""
        question_id = f"{self.session_id[2:8]}.{len(self.questions)}"
        self.questions.append(question_id)
        await self.client.ask(
            question_id,
            self._chance.choice(QUESTIONS),
            mode=self._chance.choice(("frozen", "live")),
            temperature=0.7,
            seed=self._chance.randrange(1 << 30),
            max_tokens=self._chance.randint(3, LONGEST),
            remember=self._chance.random() < 0.2,
        )
        if self._chance.random() < CANCEL_CHANCE:
            await self.client.cancel(question_id)
        return question_id

    async def poison(self) -> None:
        """A picture that no decoder can read."""
        self._poisoned += 1
        await self.client.picture(NOT_A_PICTURE, self.sound_ms / 1000)

    def hush(self) -> None:
        """No more questions."""
        self._asking = False

    def leave(self) -> None:
        """Nothing more to show or to say: all that was said is counted."""
        self._staying = False

    def lost_sound(self) -> list[tuple[int, int]]:
        """Session times, from and to, of the sound that the server said it did not take."""
        length = round(SOUND_S * 1000)
        return [(sequence * length, (sequence + 1) * length) for sequence in self.client.refused]

    @property
    def _open(self) -> int:
        return len(self.questions) - len(self.client.ended)

    def _noise(self) -> bytes:
        return self._chance.randbytes(round(SOUND_S * BYTES_PER_S))


async def arrive(
    gateways: Sequence[str], key: str, count: int, *, seed: int, terms: dict[str, Any], decode: Decode
) -> list[Person]:
    """Opens ``count`` sessions."""
    people: list[Person] = []
    async with _rest(gateways[0], key) as http:
        for number in range(count):
            reply = await http.post("/v1/sessions", json=terms)
            reply.raise_for_status()
            order = [*gateways[number % len(gateways) :], *gateways[: number % len(gateways)]]
            client = Client(order, key, reply.json()["id"], decode=decode)
            people.append(Person(client, seed * 1000 + number))
    return people


async def depart(gateways: Sequence[str], key: str, people: Sequence[Person]) -> None:
    """Closes the sessions. TimeoutError where one is not closed after a minute."""
    async with _rest(gateways[0], key) as http:
        for person in people:
            (await http.delete(f"/v1/sessions/{person.session_id}")).raise_for_status()
        for person in people:
            await eventually(partial(_closed, http, person.session_id), REST_S)


async def _closed(http: httpx.AsyncClient, session_id: str) -> bool:
    return bool((await http.get(f"/v1/sessions/{session_id}")).json().get("state") == "closed")


def _rest(gateway: str, key: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=gateway, headers=headers, timeout=20.0, trust_env=False)
