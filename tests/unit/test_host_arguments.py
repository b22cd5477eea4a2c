"""Arguments get short names before modules are compiled, and nothing else changes."""

import pytest

from host_tools import arguments


def shorten(source: str, **options) -> str:
    return arguments.shorten({"net/a.py": source.encode(), "net/b.py": b"f(named=1)\n"}, **options)["net/a.py"].decode()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(self, first, other):\n    return self.first + first * other\n", "def f(self, a, b):\n    return self.first + a * b\n"),
        ("def f(first):\n    a = 'ä'; return a, first, [first for first in a]\n", "def f(b):\n    a = 'ä'; return a, b, [b for b in a]\n"),
        ("class C:\n    def f(self, first, k=2):\n        first[k] = first\n", "class C:\n    def f(self, a, k=2):\n        a[k] = a\n"),
        ("def f(first):\n    try: pass\n    except E as a: return first\n", "def f(b):\n    try: pass\n    except E as a: return b\n"),
    ],
)
def test_arguments_without_default_are_shortened(source, expected):
    assert shorten(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "def f(named):\n    return named\n",
        "def f(first=1, *rest, **more):\n    return first\n",
        "@viper\ndef f(first):\n    return first\n",
        "def f(first: int):\n    return first\n",
        "def f(first):\n    return lambda: first\n",
        "def f(first):\n    return f'{first}'\n",
        "def f(first, x=first):\n    return first\n",
        "def f(first):\n    from net import first\n    return first\n",
        "def f(first):\n    try: pass\n    except E as first: return first\n",
    ],
)
def test_what_may_be_named_or_is_not_understood_stays(source):
    assert shorten(source) == source


def test_modules_of_the_interface_stay():
    source = "def f(first):\n    return first\n"
    assert shorten(source, interface=["net/a.py"]) == source
