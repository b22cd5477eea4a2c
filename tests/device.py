"""Runs tests of device code where the device code runs: in a 32-bit MicroPython.

A test decorated with `on_device` is plain MicroPython. pytest finds it as usual, but its body is executed by an
interpreter of its own, which imports the whole test file. What only MicroPython has is imported there alone, under
`if ON_DEVICE:`. A failed assertion is reported with the line it stands in.
"""

import sys

ON_DEVICE = sys.implementation.name == "micropython"

if ON_DEVICE:

    def on_device(test):
        """On the device the test is just a function."""
        return test

else:
    import functools
    import os
    import subprocess
    from pathlib import Path

    import pytest

    ROOT = Path(__file__).resolve().parent.parent
    HEAP = "160k"
    TEST_HEAP = "2m"  # the test file is compiled into it, which a board never has to do
    TIMEOUT = 60  # s

    @functools.cache
    def interpreter() -> list[str]:
        """Return the command line of the 32-bit MicroPython: the one that BARENET_MICROPYTHON names, if it is set."""
        named = os.environ.get("BARENET_MICROPYTHON")
        if named:
            return [named]
        from host_tools.virtual_board import interpreter

        return list(interpreter.find(bits=32).command)

    def run(program: str, path: tuple[Path, ...] = (), heap: str = HEAP, timeout: float = TIMEOUT) -> str:
        """Run a MicroPython program, with firmware/ and the folders of `path` to import from; return what it printed.

        Fails the test, with the program's output, when it ends with an error or takes longer than `timeout` seconds.
        """
        folders = [str(folder) for folder in path + (ROOT / "tests", ROOT / "firmware")] + [".frozen"]
        try:
            done = subprocess.run(
                interpreter() + ["-X", f"heapsize={heap}", "-c", program],
                env=dict(os.environ, MICROPYPATH=":".join(folders)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="backslashreplace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as e:
            pytest.fail(f"MicroPython did not finish within {timeout} s\n{e.stdout or ''}", pytrace=False)
        if done.returncode:
            pytest.fail(f"on the device:\n{done.stdout}", pytrace=False)
        return done.stdout

    def on_device(test):
        """Make pytest execute `test`, a function without arguments, in MicroPython."""
        file = Path(test.__code__.co_filename)

        @functools.wraps(test)
        def in_micropython():
            run(f"import {file.stem}; {file.stem}.{test.__name__}()", path=(file.parent,), heap=TEST_HEAP)

        return in_micropython
