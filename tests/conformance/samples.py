"""Messages that the bus tests send, and a way to let time pass."""

from protocol.connection import Connection
from protocol.messages import Ask, ModelCard, Picture, SessionSpec, Sound, WorkerCard

SESSION = "s_0123456789abcdef01234567"
OTHER = "s_ffffffffffffffffffffffff"


def make_spec(session_id: str = SESSION, *, tenant: str = "alice", created_at: float = 1.0) -> SessionSpec:
    return SessionSpec(
        session_id=session_id,
        tenant=tenant,
        model="mini",
        fps=1.0,
        budget_tokens=1024,
        policy="window",
        instructions="Be brief.",
        metadata={"camera": "door"},
        ingest="live",
        created_at=created_at,
    )


def make_card(worker_id: str = "w_a", *, model: str = "mini", capacity: int = 4096, sessions: int = 4) -> WorkerCard:
    card = ModelCard(
        name=model,
        frame_width=224,
        frame_height=224,
        tokens_per_frame=64,
        pictures_per_grid=2,
        max_fps=4.0,
        default_budget_tokens=1024,
        max_budget_tokens=4096,
        bytes_per_token=1024,
        policies=["full", "window"],
    )
    return WorkerCard(worker_id=worker_id, model=card, capacity_tokens=capacity, max_sessions=sessions)


def make_ask(question_id: str = "q1", *, text: str = "what is it?", at_ms: int = 0) -> Ask:
    return Ask(question_id=question_id, text=text, at_ms=at_ms, asked_at=1.0)


def make_picture(sequence: int, *, t_ms: int | None = None, size: int = 100) -> Picture:
    t_ms = sequence * 1000 if t_ms is None else t_ms
    return Picture(
        t_ms=t_ms, track=1, sequence=sequence, width=224, height=224, jpeg=bytes(size), arrived_at=float(sequence)
    )


def make_sound(sequence: int) -> Sound:
    return Sound(t_ms=sequence * 100, track=2, sequence=sequence, pcm=bytes(3200), arrived_at=float(sequence))


async def until_expired(connection: Connection, key: str) -> None:
    """Makes a key's time to live run out now."""
    await connection.command("PEXPIREAT", key, 1)
    assert not await connection.command("EXISTS", key)
