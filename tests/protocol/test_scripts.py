import hashlib

import pytest

from protocol import scripts
from protocol.scripts import Script

pytestmark = pytest.mark.unit


def test_a_script_is_named_by_what_the_server_will_hash() -> None:
    script = Script("return {'ok'}")
    assert script.source.startswith(scripts.PRELUDE)
    assert script.sha == hashlib.sha1(script.source.encode()).hexdigest()  # noqa: S324  # Redis names scripts so


def test_no_two_scripts_are_the_same() -> None:
    found = [value for value in vars(scripts).values() if isinstance(value, Script)]
    assert len(found) > 10
    assert len({script.sha for script in found}) == len(found)
