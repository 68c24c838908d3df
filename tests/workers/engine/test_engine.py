"""The engine against the plain model: paged, batched and forked, but the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.workers.engine.rig import Rig
from workers.engine.batch import Runner, Work
from workers.engine.messages import QuestionDone, QuestionStarted
from workers.models.chat import Chat, Span
from workers.models.checkpoint import Checkpoint

pytestmark = pytest.mark.parity

QUESTION = "What is on the table now?"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Logits of every pass in which somebody wanted some, in order."""
    rows: list[Tensor] = []
    run = Runner.run

    def recording(runner: Runner, works: list[Work]) -> Tensor:
        logits = run(runner, works)
        rows.extend(logits)
        return logits

    monkeypatch.setattr(Runner, "run", recording)
    return rows


class Whole:
    """One uncut sequence through the decoder, every token seeing all before it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.chat: Chat = checkpoint.chat
        self.spans: list[Span] = [self.chat.header("You are watching a live video.")]
        self.pictures: dict[int, Tensor] = {}

    def frame(self, rig: Rig, t_ms: int, slot: int) -> None:
        self.spans.append(self.chat.frame(self.spans[-1].clock, t_ms, 4, 4))
        (features,) = rig.engine._eye.encode([rig.pictures[slot]])
        self.pictures[sum(map(len, self.spans))] = features.tokens

    def logits(self, *more: Span) -> Tensor:
        """After each token."""
        decoder = self.checkpoint.model.decoder
        device = decoder.embed_tokens.weight.device
        spans = [*self.spans, *more]
        tokens = np.concatenate([span.tokens for span in spans])
        positions = np.concatenate([span.positions for span in spans], axis=1)
        with torch.inference_mode():
            embeds = decoder.embed(torch.from_numpy(tokens).to(device))
            for stop, features in self.pictures.items():
                embeds[stop - len(features) : stop] = features
            rotation = decoder.rope.rotation(torch.from_numpy(positions).to(device))
            return decoder.logits(decoder(embeds, rotation, causal))


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(0, 1)


def close(ours: list[Tensor], theirs: Tensor) -> None:
    torch.testing.assert_close(torch.stack(ours), theirs, atol=1e-4, rtol=1e-4)


def test_policy_full_equals_the_plain_model(each_rig: Callable[..., Rig], heard: list[Tensor]) -> None:
    """A whole session: two segments with a remembered exchange between, then two questions at once."""
    r = each_rig()
    r.open(policy="full", budget_tokens=1024)
    for t_ms in (0, 1000, 2000):
        r.push(t_ms)
    r.ask("first", at_ms=2000, text=QUESTION, max_tokens=5)
    r.run()
    for t_ms in (3000, 4000):
        r.push(t_ms)
    r.run()
    whole = Whole(r.checkpoint)
    for slot, t_ms in enumerate((0, 1000, 2000), 1):
        whole.frame(r, t_ms, slot)
    asked = whole.chat.question(whole.spans[-1].clock, QUESTION)
    said = r.answer("first")
    answer = whole.chat.answer(asked.clock, said)
    first = whole.logits(asked, answer)[-len(said) - 1 :]
    close(heard[: len(said)], first[: len(said)])
    assert first[: len(said)].argmax(-1).tolist() == said

    whole.spans.append(whole.chat.remembered(whole.spans[-1].clock, QUESTION, said))
    for slot, t_ms in enumerate((3000, 4000), 4):
        whole.frame(r, t_ms, slot)
    heard.clear()
    for name in ("a", "b"):
        r.ask(name, at_ms=4000, text=f"{name}: {QUESTION}", remember=False, max_tokens=4)
    r.run()
    for place, name in enumerate(("a", "b")):
        asked = whole.chat.question(whole.spans[-1].clock, f"{name}: {QUESTION}")
        answer = whole.chat.answer(asked.clock, r.answer(name))
        expected = whole.logits(asked, answer)[-5:-1]
        assert len(r.answer(name)) == 4, "choose another seed: the answer stopped early"
        close(heard[place::2], expected)


def test_a_question_in_pieces_equals_one_in_one_piece(rig: Callable[..., Rig], heard: list[Tensor]) -> None:
    text = "How many people walked past the door since the light went out? " * 3
    firsts = []
    for step_tokens in (512, 16):
        r = rig(step_tokens=step_tokens, floor_tokens=1)
        r.open()
        r.push(0)
        r.ask(text=text, max_tokens=1)
        heard.clear()
        r.run()
        firsts.append(heard[0])
    torch.testing.assert_close(*firsts, atol=1e-4, rtol=1e-4)


def test_sessions_do_not_change_each_other(rig: Callable[..., Rig]) -> None:
    answers = []
    for others in (0, 3):
        r = rig(pool_tokens=4096)
        names = ["s", *(f"other {n}" for n in range(others))]
        for name in names:
            r.open(name)
            for t_ms in (0, 1000, 2000):
                r.push(t_ms, name, seed=t_ms + names.index(name))
        for name in names:
            r.ask("q" + name, name, at_ms=2000)
        r.run()
        answers.append(r.answer("qs"))
    assert answers[0] == answers[1]


def test_frames_go_through_the_decoder_with_the_answers_beside_them(rig: Callable[..., Rig]) -> None:
    """Those of other sessions, and their own: a frozen answer is the same whatever comes beside it."""
    answers = []
    for shown in ((), ("b", "c"), ("a", "b")):
        r = rig(pool_tokens=4096)
        for name in "abc":
            r.open(name)
            r.push(0, name, seed=ord(name))
        r.run()
        r.ask(session_id="a", max_tokens=12, remember=False)
        r.run(steps=3)
        for t_ms in (1000, 2000, 3000):
            for name in shown:
                r.push(t_ms, name)
            before = replace(r.engine.counters)
            r.run(steps=1)
            done = r.engine.counters
            assert done.passes - before.passes == 1
            assert (done.decode_tokens - before.decode_tokens, done.frames - before.frames) == (1, len(shown))
        r.run()
        answers.append(r.answer())
    assert len(answers[0]) > 6, "choose another seed: the answer ended too early"
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("mode", ["frozen", "live"])
def test_a_frame_for_which_pins_have_to_go_waits_for_what_is_said(rig: Callable[..., Rig], mode: str) -> None:
    """A full memory makes room for a frame before anything is said; where a frozen answer has pinned too much of it, or
    positions have to move, the frame comes in a pass of its own. Each frame is in memory all the same, once.
    """
    r = rig(pool_tokens=2048, trained_length=192)
    r.open(budget_tokens=320)
    for n in range(20):
        r.push(n * 1000)
    r.run()
    r.ask(mode=mode, max_tokens=60, remember=False)
    r.run(steps=2)
    passes = []
    for n in range(20, 60):
        r.push(n * 1000)
        before = replace(r.engine.counters)
        r.run(steps=1)
        done = r.engine.counters
        assert done.frames - before.frames == 1
        if done.decode_tokens > before.decode_tokens:
            passes.append(done.passes - before.passes)
    r.run()
    assert len(passes) > 5, "choose another seed: the answer ended too early"
    assert set(passes) == {1, 2}
    assert passes.count(1) > passes.count(2)
    assert r.outcomes() == ["prefilled"] * 60


def test_a_forced_prefix_goes_on_where_the_answer_was(rig: Callable[..., Rig]) -> None:
    for temperature in (0.0, 1.0):
        answers: list[list[int]] = []
        texts = []
        for forced in (0, 3):
            r = rig()
            r.open()
            r.push(0)
            known = tuple(answers[0][:forced]) if forced else ()
            r.ask(prefix=known, temperature=temperature, seed=5, max_tokens=8)
            r.run()
            answers.append([*known, *r.answer()])
            texts.append(r.done().text)
        assert len(answers[0]) > 3, "choose another seed: the answer is too short"
        assert answers[0] == answers[1]
        assert texts[0] == texts[1]


def test_a_prefix_that_is_the_whole_answer_ends_it(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.open()
    r.push(0)
    r.ask(prefix=(40, 41), max_tokens=2)
    r.run()
    assert (r.done().finish_reason, r.done().completion_tokens, r.answer()) == ("length", 2, [])


def test_an_answer_says_what_it_saw(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.open()
    for t_ms in (0, 1000):
        r.push(t_ms)
    r.ask(at_ms=1000, max_tokens=3)
    r.run()
    (started,) = r.said(QuestionStarted)
    (done,) = r.said(QuestionDone)
    assert started.as_of_ms == done.as_of_ms == 1000
    assert done.completion_tokens == len(r.answer()) <= 3
    assert done.text == r.checkpoint.tokenizer.decode(r.answer())
    assert r.outcomes() == ["prefilled", "prefilled"]
