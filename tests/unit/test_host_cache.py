"""What is kept between runs (host_tools/cache.py)."""

import pytest

from host_tools import cache

FILES = {"boot.py": b"", "barenet/fast.mpy": b"M\x06\x00" + bytes(300)}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """made(*of) returns the files that come from the cache or a call, and the number of calls so far."""
    monkeypatch.setenv("BARENET_CACHE", str(tmp_path))
    calls = []

    def make():
        calls.append(1)
        return FILES

    return lambda *of: (cache.made("things", of, make), len(calls))


def test_the_same_is_made_once_and_another_anew(made):
    assert made(b"a", b"b") == (FILES, 1)
    assert made(b"a", b"b") == (FILES, 1)
    assert made(b"ab") == (FILES, 2)
    assert made(b"a", b"b") == (FILES, 2)


def test_what_is_damaged_is_made_anew(made, tmp_path):
    made(b"a")
    (kept,) = (tmp_path / "things").glob("*.zip")
    for damaged in (b"", b"PK", kept.read_bytes()[:-9], kept.read_bytes().replace(b"M\x06\x00", b"M\x07\x00")):
        kept.write_bytes(damaged)
        before = made(b"b")[1]
        assert made(b"a") == (FILES, before + 1)
        assert made(b"a") == (FILES, before + 1)


def test_a_cache_that_cannot_be_written_does_no_harm(made, tmp_path):
    (tmp_path / "things").write_text("in the way")
    assert made(b"a") == (FILES, 1)
    assert made(b"a") == (FILES, 2)


def test_only_the_newest_are_kept(made, tmp_path):
    for i in range(30):
        made(bytes((i,)))
    assert len(list((tmp_path / "things").iterdir())) == 24
    assert made(bytes((29,)))[1] == 30
