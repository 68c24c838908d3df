"""REST and event streams over a real bus, with a worker that names colours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from protocol.bus import Bus
from server.settings import Limits
from tests.server.conftest import OTHER_KEY, Served
from tests.server.fake_worker import FakeWorker
from tests.server.wire import picture, until

pytestmark = pytest.mark.e2e


async def post_picture(gateway: Served, session: dict[str, Any], colour: str, **query: str | int) -> httpx.Response:
    return await gateway.http.post(
        f"/v1/sessions/{session['id']}/media",
        content=picture(colour),
        headers={"content-type": "image/jpeg"},
        params={"wait": "true", **query},
    )


async def ask(gateway: Served, session: dict[str, Any], **body: Any) -> httpx.Response:
    return await gateway.http.post(f"/v1/sessions/{session['id']}/questions", json={"question": "what colour?", **body})


async def stream(gateway: Served, path: str, method: str = "GET", **options: Any) -> list[dict[str, Any]]:
    """All events of a stream that ends, each with the ``id`` of its frame."""
    async with gateway.http.stream(method, path, **options) as reply:
        assert reply.status_code == 200, await reply.aread()
        assert reply.headers["content-type"].startswith("text/event-stream")
        text = "".join([piece async for piece in reply.aiter_text()])
    frames = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in text.split("\n\n") if frame]
    return [{**json.loads(frame["data"]), "frame_id": frame.get("id")} for frame in frames]


async def test_a_session_from_open_to_delete(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open(fps=2, instructions="Be brief.")
    assert session["object"] == "session"
    assert session["model"] == "fake"
    assert session["settings"] == {
        "fps": 2.0,
        "budget_tokens": 1024,
        "policy": "window",
        "instructions": "Be brief.",
        "ingest": "live",
        "dropping": None,
        "store": "off",
    }
    assert session["stored"] == []
    assert session["connect_token_expires_in"] == 60
    taken = await post_picture(gateway, session, "red")
    assert taken.status_code == 202
    assert {**taken.json(), "media_id": ""} == {
        "accepted": True,
        "media_id": "",
        "kind": "picture",
        "start_ms": 0,
        "frames": 1,
        "duration_ms": 0,
    }
    answer = await ask(gateway, session, id="q1")
    assert answer.status_code == 200
    assert answer.json() == {
        "id": "q1",
        "object": "answer",
        "status": "done",
        "question": "what colour?",
        "text": "red",
        "as_of_ms": 0,
        "mode": "frozen",
        "finish_reason": "stop",
        "error": None,
        "usage": {"prompt_tokens": 2, "completion_tokens": 1},
        "timing": {"queued_ms": 1.0, "first_token_ms": 2.0, "total_ms": 3.0},
    }
    path = f"/v1/sessions/{session['id']}"
    assert (await gateway.http.get(f"{path}/questions/q1")).json() == answer.json()
    listed = (await gateway.http.get("/v1/sessions")).json()["data"]
    assert [record["id"] for record in listed] == [session["id"]]
    assert (await gateway.http.delete(path)).status_code == 204
    assert (await gateway.http.delete(path)).status_code == 204
    assert (await ask(gateway, session)).json()["error"]["code"] == "session_closed"
    assert (await gateway.http.get(path)).json()["state"] in ("closing", "closed")


async def test_health_has_both_halves(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    await post_picture(gateway, session, "red")
    await post_picture(gateway, session, "blue", at_ms=5000)

    async def both() -> bool:
        health.update((await gateway.http.get(f"/v1/sessions/{session['id']}")).json()["health"])
        return bool(health["frames_out"] == 2 and health["trunk_time_ms"] == 5000)

    health: dict[str, Any] = {}
    await until(both)
    assert health["session_time_ms"] == 5000
    assert health["frames_prefilled"] == 2
    assert health["memory"]["tokens"] == 8
    assert 0 <= health["last_frame_age_ms"] < 10_000


async def test_a_question_streams_its_answer(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    worker.words = ["I", "see"]
    await post_picture(gateway, session, "blue")
    path = f"/v1/sessions/{session['id']}/questions"
    events = await stream(gateway, path, "POST", json={"question": "what colour?", "stream": True, "id": "q1"})
    kinds = ["question.accepted", "answer.started", "answer.delta", "answer.delta", "answer.delta", "answer.done"]
    assert [event["type"] for event in events] == kinds
    assert "".join(event["text"] for event in events if event["type"] == "answer.delta") == "I see blue"
    assert all(event["frame_id"] == event["event_id"] for event in events[1:])


async def test_a_stream_of_events_goes_on_after_the_last_one_seen(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    await post_picture(gateway, session, "red")
    await ask(gateway, session, id="q1")
    await ask(gateway, session, id="q2")
    path = f"/v1/sessions/{session['id']}"
    following = asyncio.create_task(stream(gateway, f"{path}/events", headers={"last-event-id": "0-0"}))

    async def followed() -> bool:
        return bool(gateway.server._app.state.gateway.relay.sessions())

    await until(followed)
    await gateway.http.post(f"{path}/close")
    events = await following
    one_answer = ["answer.started", "answer.delta", "answer.done"]
    assert [event["type"] for event in events] == [*one_answer, *one_answer, "session.closed"]
    rest = await stream(gateway, f"{path}/events", headers={"last-event-id": events[2]["frame_id"]})
    assert rest == events[3:]
    assert await stream(gateway, f"{path}/events?last_event_id={events[-1]['frame_id']}") == []


async def test_the_same_request_under_an_idempotency_key_is_one_question(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    await post_picture(gateway, session, "red")
    path, key = f"/v1/sessions/{session['id']}/questions", {"idempotency-key": "k1"}
    first, again = await asyncio.gather(
        *(gateway.http.post(path, json={"question": "what colour?"}, headers=key) for _ in range(2))
    )
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    other = await gateway.http.post(path, json={"question": "another?"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")


async def test_an_answer_that_takes_long_can_be_asked_for_and_cancelled(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    worker.words = ["hm"]
    worker.speaking.clear()
    asked = asyncio.create_task(ask(gateway, session, id="q1"))
    path = f"/v1/sessions/{session['id']}/questions/q1"

    async def accepted() -> bool:
        return (await gateway.http.get(path)).status_code == 200

    await until(accepted)
    assert (await gateway.http.get(path)).json()["status"] == "running"
    assert (await gateway.http.delete(path)).status_code == 202
    assert (await asked).json()["status"] == "cancelled"


@pytest.mark.parametrize("limits", [Limits(answer_s=0.5)])
async def test_a_wait_for_an_answer_has_an_end(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    worker.words = ["hm"]
    worker.speaking.clear()
    answer = await ask(gateway, session)
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    worker.speaking.set()


@pytest.mark.parametrize("limits", [Limits(unowned_s=0.5)])
async def test_a_question_that_no_worker_takes_fails(gateway: Served, bus: Bus) -> None:
    worker = FakeWorker(bus)
    await bus.placement.advertise(worker.card, {})
    session = await gateway.open()
    answer = (await ask(gateway, session)).json()
    assert (answer["status"], answer["error"]["code"]) == ("failed", "worker_lost")


async def test_a_tenants_sessions_are_its_own(gateway: Served, worker: FakeWorker) -> None:
    session = await gateway.open()
    bob = gateway.auth(OTHER_KEY)
    path = f"/v1/sessions/{session['id']}"
    for method, suffix in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/connect"),
        ("GET", "/events"),
        ("GET", "/questions/q1"),
    ]:
        refused = await gateway.http.request(method, path + suffix, headers=bob)
        unknown = await gateway.http.request(method, f"/v1/sessions/s_{'0' * 24}{suffix}", headers=bob)
        assert refused.status_code == unknown.status_code == 404
        assert refused.json() == unknown.json()
    assert (await gateway.http.get("/v1/sessions", headers=bob)).json()["data"] == []


@pytest.mark.parametrize(
    ("terms", "status", "code", "param"),
    [
        ({"model": "none"}, 404, "unknown_model", "model"),
        ({"policy": "none"}, 400, "unknown_policy", "policy"),
        ({"fps": 0}, 400, "bad_request", "fps"),
        ({"fps": 9}, 400, "bad_request", "fps"),
        ({"budget_tokens": 10**9}, 400, "bad_request", "budget_tokens"),
        ({"ingest": "maybe"}, 400, "bad_request", "ingest"),
        ({"instructions": "\ud800"}, 400, "bad_request", "instructions"),
        ({"colour": "red"}, 400, "bad_request", "colour"),
        ({"instructions": "x" * 9000}, 413, "too_large", "instructions"),
        ({"metadata": {str(n): "" for n in range(17)}}, 413, "too_large", "metadata"),
        ({"metadata": {"k" * 65: "v"}}, 413, "too_large", "metadata"),
        ({"metadata": {"k": "v" * 513}}, 413, "too_large", "metadata"),
        ({"metadata": {"": "v"}}, 400, "bad_request", "metadata"),
        ({"metadata": {"\ud800": "v"}}, 400, "bad_request", "metadata"),
        ({"metadata": {"k": "\ud800"}}, 400, "bad_request", "metadata"),
        ({"metadata": {"k": 1}}, 400, "bad_request", "metadata.k"),
        ({"metadata": ["k"]}, 400, "bad_request", "metadata"),
    ],
)
async def test_terms_that_cannot_be_met(
    gateway: Served, worker: FakeWorker, terms: dict[str, Any], status: int, code: str, param: str
) -> None:
    kind = {"content-type": "application/json"}
    refused = await gateway.http.post("/v1/sessions", content=json.dumps(terms), headers=kind)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (status, code, param)
    assert refused.headers["x-request-id"].startswith("r_")


async def test_metadata_comes_back_as_it_was_given(gateway: Served, worker: FakeWorker) -> None:
    longest = {"k" * 64: "v" * 512, **{f"key {n}": "" for n in range(14)}, "Ort": "Küche 🎥"}
    session = await gateway.open(metadata=longest)
    assert session["metadata"] == longest
    assert (await gateway.http.get(f"/v1/sessions/{session['id']}")).json()["metadata"] == longest
    plain = await gateway.open()
    listed = (await gateway.http.get("/v1/sessions")).json()["data"]
    assert {one["id"]: one["metadata"] for one in listed} == {session["id"]: longest, plain["id"]: {}}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"question": ""}, 400, "bad_request"),
        ({"question": "x" * 8193}, 413, "question_too_long"),
        ({"question": "x", "id": "no spaces"}, 400, "bad_request"),
        ({"question": "x", "temperature": -1}, 400, "bad_request"),
        ({"question": "x", "max_tokens": 0}, 400, "bad_request"),
        ({"question": "x", "at_ms": -1}, 400, "bad_request"),
        ({"question": "x", "seed": -1}, 400, "bad_request"),
        ({"question": "x", "mode": "other"}, 400, "bad_request"),
        ({}, 400, "bad_request"),
        ({"question": "\ud800"}, 400, "bad_request"),
    ],
)
async def test_questions_that_are_refused(
    gateway: Served, worker: FakeWorker, body: dict[str, Any], status: int, code: str
) -> None:
    session = await gateway.open()
    path, kind = f"/v1/sessions/{session['id']}/questions", {"content-type": "application/json"}
    refused = await gateway.http.post(path, content=json.dumps(body), headers=kind)
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("body", ["{", "[" * 60_000, '{"question":' + "[" * 60_000, "\x00"])
async def test_bodies_that_are_not_json(gateway: Served, worker: FakeWorker, body: str) -> None:
    session = await gateway.open()
    path = f"/v1/sessions/{session['id']}/questions"
    refused = await gateway.http.post(path, content=body, headers={"content-type": "application/json"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize("limits", [Limits(sessions=1)])
async def test_a_tenant_has_so_many_sessions(gateway: Served, worker: FakeWorker) -> None:
    await gateway.open()
    refused = await gateway.http.post("/v1/sessions", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) >= 1
    others = await gateway.http.post("/v1/sessions", json={}, headers=gateway.auth(OTHER_KEY))
    assert others.status_code == 201


@pytest.mark.parametrize("limits", [Limits(requests_per_s=0.5)])
async def test_a_tenant_makes_so_many_requests(gateway: Served) -> None:
    assert (await gateway.http.get("/v1/models")).status_code == 200
    refused = await gateway.http.get("/v1/models")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert (await gateway.http.get("/v1/models", headers=gateway.auth(OTHER_KEY))).status_code == 200


async def test_probes_metrics_models_and_the_document(gateway: Served, worker: FakeWorker) -> None:
    assert (await gateway.http.get("/livez")).json() == {"status": "ok"}
    models = (await gateway.http.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["fake"]
    assert models[0]["frame"] == {"width": 64, "height": 48, "tokens": 4}
    workers = (await gateway.http.get("/readyz")).json()["workers"]
    assert [found["id"] for found in workers] == ["w_fake"]
    await post_picture(gateway, await gateway.open(), "red")

    async def counted() -> bool:
        return "longlook_decoder_processes 1.0" in (await gateway.http.get("/metrics")).text

    await until(counted)
    metrics = (await gateway.http.get("/metrics")).text
    assert 'longlook_http_requests_total{handler="/v1/models",method="GET",status="200"} 1.0' in metrics
    await gateway.http.request("ODD", "/v1/models")
    assert 'method="other",status="405"' in (await gateway.http.get("/metrics")).text
    document = (await gateway.http.get("/openapi.json")).json()
    answers = document["paths"]["/v1/sessions/{session_id}/questions"]["post"]["responses"]
    assert answers["200"]["content"]["application/json"]["example"]["object"] == "answer"


async def test_the_page_may_load_nothing_from_elsewhere(gateway: Served) -> None:
    (gateway.server._app.state.gateway.settings.web_dir / "index.html").write_text("<title>Longlook</title>")
    page = await gateway.http.get("/")
    assert page.text == "<title>Longlook</title>"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (await gateway.http.get("/no/such/thing")).json()["error"]["code"] == "not_found"
