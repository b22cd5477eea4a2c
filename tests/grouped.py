"""Runs all the device tests of a file in one interpreter, which starts when pytest comes to the first of them.

`grouped` is `on_device` (device.py) for files with many small tests: each is still a test of its own to pytest,
passes or fails alone, and is plain MicroPython. `grouped_on(32, 64)` runs each test in interpreters of both word sizes,
each with the constants that a deploy gives a board of that size.
"""

import sys

from device import ON_DEVICE

if ON_DEVICE:
    _MARK = "\x01"

    def grouped(test):
        """On the device the test is just a function."""
        return test

    def grouped_on(*bits):
        return grouped

    def run(name):
        """Runs every test of the module and prints what became of each."""
        module = __import__(name)
        for test in sorted(dir(module)):
            if test.startswith("test_"):
                try:
                    getattr(module, test)()
                    print(_MARK + "passed " + test)
                except Exception as e:
                    sys.print_exception(e)
                    print(_MARK + "failed " + test)

else:
    import functools
    import os
    import subprocess
    import tempfile
    from pathlib import Path

    import pytest
    from device import ROOT, interpreter

    from host_tools import deploy

    HEAP = "2m"  # for all tests of a file, with what they leave to be collected
    TIMEOUT = 60  # s, for all of them

    @functools.cache
    def _command(bits: int) -> list[str]:
        if bits == 32:
            return interpreter()
        from host_tools.virtual_board.interpreter import find

        return list(find(bits=bits).command)

    @functools.cache
    def _firmware(bits: int) -> Path:
        if bits == 32:
            return ROOT / "firmware"
        folder = Path(_scratch().name)
        for name, content in deploy.fit(deploy.sources(), "x64").items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    @functools.cache
    def _scratch() -> tempfile.TemporaryDirectory:
        return tempfile.TemporaryDirectory(prefix="barenet-firmware-")

    @functools.cache
    def _outcomes(file: Path, bits: int) -> dict[str, tuple[bool, str]]:
        """Run the tests of a file; return {name: (passed, what it printed)}, under "" what came after the last."""
        # The stack is imported first: from within a test's import it would be nested deeper than MicroPython's C
        # stack allows.
        program = f"import barenet.stack; import grouped; grouped.run('{file.stem}')"
        folders = [file.parent, ROOT / "tests", _firmware(bits), ".frozen"]
        try:
            done = subprocess.run(
                _command(bits) + ["-X", f"heapsize={HEAP}", "-c", program],
                env=dict(os.environ, MICROPYPATH=":".join(map(str, folders))),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
            )
            output, end = done.stdout, f"MicroPython ended with code {done.returncode}"
        except subprocess.TimeoutExpired as e:
            output, end = e.stdout or b"", f"MicroPython did not finish within {TIMEOUT} s"
        outcomes = {}
        said = []
        for line in output.decode(errors="backslashreplace").splitlines():
            if line.startswith("\x01"):
                outcome, _, name = line[1:].partition(" ")
                outcomes[name] = (outcome == "passed", "\n".join(said))
                said = []
            else:
                said.append(line)
        outcomes[""] = (False, "\n".join(said + [end]))
        return outcomes

    def _check(test, bits: int) -> None:
        outcomes = _outcomes(Path(test.__code__.co_filename), bits)
        passed, said = outcomes.get(test.__name__) or outcomes[""]
        if not passed:
            pytest.fail(f"on the {bits}-bit device:\n{said}", pytrace=False)

    def grouped(test):
        """Make pytest execute `test`, which has no arguments, in MicroPython with the others of its file."""

        @functools.wraps(test)
        def in_micropython():
            _check(test, 32)

        return in_micropython

    def grouped_on(*bits: int):
        """Return a decorator like `grouped` for interpreters of these word sizes."""

        def decorate(test):
            @pytest.mark.parametrize("bits", bits)
            def in_micropython(bits):
                _check(test, bits)

            in_micropython.__name__ = test.__name__
            in_micropython.__doc__ = test.__doc__
            return in_micropython

        return decorate
