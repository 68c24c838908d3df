import pytest

from protocol import ids
from protocol.ids import START, EntryId

pytestmark = pytest.mark.unit


def test_fresh_ids_have_the_shapes_that_are_let_in() -> None:
    made = {ids.session_id() for _ in range(100)}
    assert len(made) == 100
    assert all(map(ids.is_session_id, made))
    assert ids.is_question_id(ids.question_id())


@pytest.mark.parametrize("text", ["", "s_", "s_XYZ", "s_" + "0" * 23, "s_" + "0" * 25, "s_{" + "0" * 23, "\n" * 26])
def test_foreign_session_ids_stay_out(text: str) -> None:
    assert not ids.is_session_id(text)


@pytest.mark.parametrize("text", ["", "a b", "a\n", "{q}", "ä", "x" * 65, "a/b"])
def test_foreign_question_ids_stay_out(text: str) -> None:
    assert not ids.is_question_id(text)


def test_entry_ids_order_by_number() -> None:
    assert START < EntryId(1, 0) < EntryId(1, 9) < EntryId(1, 10) < EntryId(2, 0) < EntryId(10, 0)
    assert EntryId.parse(b"12-34") == EntryId(12, 34)
    assert str(EntryId.parse("12-34")) == "12-34"


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "a-b", " 1-2", "1-2\n", "9" * 20 + "-0", "*"])
def test_what_is_no_entry_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an entry id"):
        EntryId.parse(text)
