import pytest

from protocol import keys

pytestmark = pytest.mark.unit

SESSION = "s_0123456789abcdef01234567"


def tag(key: str) -> str:
    return key[key.index("{") + 1 : key.index("}")]


def test_all_keys_of_a_session_share_its_hash_tag() -> None:
    names = [
        keys.session(SESSION),
        keys.lease(SESSION),
        *(keys.lane(SESSION, lane) for lane in keys.LANES),
        keys.output(SESSION),
        keys.question(SESSION, "q"),
        keys.unanswered(SESSION),
        keys.token(SESSION, "secret"),
    ]
    assert {tag(name) for name in names} == {SESSION}
    assert len(set(names)) == len(names)


def test_all_keys_of_placement_share_a_hash_tag() -> None:
    names = [
        keys.beats(),
        keys.cards(),
        keys.limits(),
        keys.loads("m"),
        keys.held("w"),
        keys.calls("w"),
        keys.owned("m"),
    ]
    assert {tag(name) for name in names} == {"workers"}
    assert len(set(names)) == len(names)


def test_secrets_and_foreign_text_never_stand_in_a_key() -> None:
    names = [
        keys.token(SESSION, "hunter2"),
        keys.idempotency(SESSION, "hunter2"),
        keys.tenant("hunter2"),
        keys.loads("hunter2"),
    ]
    assert not any("hunter2" in name for name in names)
