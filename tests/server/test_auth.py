import hashlib
import os
from pathlib import Path

import pytest

from protocol.errors import Unauthorized
from server.auth import Keyring, bearer, new_key, parse_keys

pytestmark = pytest.mark.unit

ALICE, BOB = "alice-has-a-long-key", "bob-has-another-long-key"


def test_keys_in_every_form() -> None:
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    keyring = Keyring(parse_keys(f"# keys\nalice:{ALICE}, plain-key-of-nobody\nbob:sha256:{digest}  # hashed\n\n"))
    assert len(keyring) == 3
    assert keyring.tenant_of(ALICE) == "alice"
    assert keyring.tenant_of(BOB) == "bob"
    assert keyring.tenant_of("plain-key-of-nobody") == "default"


@pytest.mark.parametrize("key", ["", "alice", ALICE + "x", ALICE[:-1], f"alice:{ALICE}", "\ud800", "x" * 100_000])
def test_other_keys_are_unknown(key: str) -> None:
    with pytest.raises(Unauthorized):
        Keyring(parse_keys(f"alice:{ALICE}")).tenant_of(key)


@pytest.mark.parametrize(
    "text", ["tiny!key", "alice:sha256:abc", f"a b:{ALICE}", f":sha256:{'0' * 64}", "alice:sha256:" + "g" * 64]
)
def test_bad_entries_are_named_without_showing_them(text: str) -> None:
    with pytest.raises(ValueError, match="API key 1") as error:
        parse_keys(text)
    assert text not in str(error.value)


def test_a_key_taken_out_of_the_file_stops_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("server.auth.time.monotonic", lambda: now)
    file = tmp_path / "keys"
    file.write_text(f"alice:{ALICE}\nbob:{BOB}\n")
    keyring = Keyring((), file)
    assert keyring.tenant_of(BOB) == "bob"
    file.write_text(f"alice:{ALICE}\n")
    os.utime(file, ns=(1, 1))
    now += 1.5
    assert keyring.tenant_of(ALICE) == "alice"
    with pytest.raises(Unauthorized):
        keyring.tenant_of(BOB)
    file.unlink()
    now += 1.5
    with pytest.raises(Unauthorized):
        keyring.tenant_of(ALICE)


def test_where_a_request_carries_its_key() -> None:
    assert bearer("Bearer abc", None) == "abc"
    assert bearer("bearer  abc ", None) == "abc"
    assert bearer(None, "abc") == "abc"
    assert bearer("Basic abc", "abc") == "abc"
    for authorization in (None, "", "Bearer", "Bearer ", "Basic abc"):
        with pytest.raises(Unauthorized):
            bearer(authorization, None)


def test_new_keys_differ_and_can_be_parsed() -> None:
    first, second = new_key(), new_key()
    assert first != second
    assert Keyring(parse_keys(first)).tenant_of(first) == "default"
