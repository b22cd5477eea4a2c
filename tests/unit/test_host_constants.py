"""Constants are replaced by their values before modules are compiled, and nothing else changes."""

import pytest

from host_tools import constants, deploy

WORDS = b"from micropython import const\nACK = const(0x10)\nLOW = const(-1)\nBOTH = const(ACK | 1)\n_OWN = const(3)\nplain = 4\n"


def fold(user: bytes, **options) -> tuple[str, str]:
    folded = constants.fold({"net/words.py": WORDS, "net/user.py": user}, **options)
    return folded["net/words.py"].decode(), folded["net/user.py"].decode()


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("from net import words\nx = words.ACK + words.LOW\n", "from net import words\nx = 16 + (-1)\n"),
        ("from net.words import ACK\nx = [ACK, ACK]\n", "pass\nx = [16, 16]\n"),
        ("from net.words import ACK as a, plain\nx = a\n", "from net.words import plain\nx = 16\n"),
        ("from net.words import (\n    ACK,\n    plain,\n)\nx = ACK\n", "from net.words import plain\n\n\n\nx = 16\n"),
        ("from net import words\ndef f(s):\n    return s + 'ä' + s[words.BOTH]  # é\n",
         "from net import words\ndef f(s):\n    return s + 'ä' + s[17]  # é\n"),
    ],
)  # fmt: skip
def test_values_stand_where_the_names_stood(user, expected):
    words, used = fold(user.encode())
    assert used == expected
    assert words == "from micropython import const\npass\npass\npass\n_OWN = const(3)\nplain = 4\n"


@pytest.mark.parametrize(
    "user",
    [
        "from net.words import ACK\ndef f():\n    ACK = 2\n    return ACK\n",
        "from net.words import ACK\ndef f(ACK):\n    return ACK\n",
        "from net import words\nwords = words or None\nx = words.ACK\n",
        "x = __import__('net.words').words.ACK\n",
        "def f():\n    from net.words import ACK\n    return ACK\n",
        "from net.words import *\nx = ACK\n",
        "from net.words import ACK\nx = f'{ACK}'\n",
        "from net import words\nx = words.\\\n    ACK\n",
    ],
)
def test_a_name_that_is_used_in_any_other_way_stays(user):
    words, used = fold(user.encode())
    assert "ACK = const(0x10)\n" in words
    assert used == user


def test_the_interface_keeps_its_names_and_gives_its_values():
    words, used = fold(b"from net import words\nx = words.ACK\n", interface=["net/words.py"])
    assert words == WORDS.decode()
    assert used == "from net import words\nx = 16\n"


def test_what_is_not_python_is_left_to_the_compiler():
    assert fold(b"def f(:\n")[1] == "def f(:\n"


def test_the_firmware_keeps_its_lines_and_loses_every_shared_constant():
    sources = deploy.sources()
    folded = deploy.fold_constants(sources)
    for path, content in sources.items():
        assert folded[path].count(b"\n") == content.count(b"\n"), path
    for path in folded.keys() - set(deploy._INTERFACE):
        kept = [line for line in folded[path].decode().splitlines() if " = const(" in line and line[0] not in "_ #"]
        assert kept == [], f"{path}: something hinders the replacement of {kept}"
