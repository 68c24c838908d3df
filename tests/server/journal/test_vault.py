from pathlib import Path

import pytest

from server.journal.vault import KeyMissing, Vault, WrongServerKey, parse_server_keys
from tests.server.journal.shelf import OTHER, SERVER_KEY, SESSION

pytestmark = pytest.mark.unit

NEWER_KEY = bytes(32)


def test_a_key_comes_back_with_what_it_was_made_for(tmp_path: Path) -> None:
    made = Vault(tmp_path, [SERVER_KEY]).create(SESSION, "alice", 12.5, 24.0)
    opened = Vault(tmp_path, [SERVER_KEY]).open(SESSION)
    assert opened == made
    assert (opened.tenant, opened.created_at, opened.retention_hours) == ("alice", 12.5, 24.0)
    assert (tmp_path / SESSION).stat().st_mode & 0o777 == 0o600


def test_a_key_file_shows_nothing(tmp_path: Path) -> None:
    key = Vault(tmp_path, [SERVER_KEY]).create(SESSION, "alice-of-acme", 0.0, None)
    data = (tmp_path / SESSION).read_bytes()
    assert key.secret not in data
    assert b"alice" not in data


def test_a_key_opens_under_its_own_server_key_and_name_alone(tmp_path: Path) -> None:
    vault = Vault(tmp_path, [SERVER_KEY])
    vault.create(SESSION, "alice", 0.0, None)
    with pytest.raises(WrongServerKey):
        Vault(tmp_path, [NEWER_KEY]).open(SESSION)
    (tmp_path / OTHER).write_bytes((tmp_path / SESSION).read_bytes())
    with pytest.raises(WrongServerKey):
        vault.open(OTHER)
    (tmp_path / SESSION).write_bytes(b"short")
    with pytest.raises(WrongServerKey):
        vault.open(SESSION)


def test_server_keys_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    Vault(tmp_path, [SERVER_KEY]).create(SESSION, "alice", 0.0, None)
    both = Vault(tmp_path, [NEWER_KEY, SERVER_KEY])
    both.create(OTHER, "alice", 0.0, None)
    assert both.open(SESSION).session_id == SESSION
    assert Vault(tmp_path, [NEWER_KEY]).open(OTHER).session_id == OTHER


def test_a_destroyed_key_is_gone_from_its_blocks_too(tmp_path: Path) -> None:
    vault = Vault(tmp_path, [SERVER_KEY])
    vault.create(SESSION, "alice", 0.0, None)
    (tmp_path / "same blocks").hardlink_to(tmp_path / SESSION)
    before = (tmp_path / SESSION).read_bytes()
    assert vault.destroy(SESSION)
    assert not vault.destroy(SESSION)
    assert vault.sessions() == []
    with pytest.raises(KeyMissing):
        vault.open(SESSION)
    after = (tmp_path / "same blocks").read_bytes()
    assert len(after) == len(before)
    assert after[:16] != before[:16]
    assert after[-32:] != before[-32:]


def test_server_keys_are_read_from_text() -> None:
    assert parse_server_keys(f"{SERVER_KEY.hex()}\n{NEWER_KEY.hex()}\n") == [SERVER_KEY, NEWER_KEY]
    for wrong in ("", "too short", SERVER_KEY.hex()[:-2], SERVER_KEY.hex() + "00"):
        with pytest.raises(ValueError, match="journal key") as refused:
            parse_server_keys(wrong)
        assert not wrong or wrong not in str(refused.value)
