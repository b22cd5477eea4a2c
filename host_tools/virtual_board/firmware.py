"""The firmware as a virtual board finds it: compiled, so that it takes the memory that it takes on a real board."""

from __future__ import annotations

from pathlib import Path

from host_tools import deploy

# Line numbers in tracebacks are worth the 4 % of memory that leaving them out saves on a real board.
_OPTIMIZE = 0


class Firmware:
    """A folder with the checkout's firmware, compiled for one interpreter.

    Args:
        folder: where to put it; exists and is empty.
        mpy: sys.implementation._mpy of the interpreter.
    """

    def __init__(self, folder: Path, mpy: int):
        self.folder = folder
        self._architecture, _ = deploy.target(mpy)
        self._files: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Compiles what has changed or was lost. Raises BarenetError with the compiler's message."""
        files = deploy.sources()
        if self._architecture:
            files = deploy.compile_all(files, self._architecture, _OPTIMIZE)
        for name, content in files.items():
            file = self.folder / name
            if self._files.get(name) != content or not (file.exists() or file.with_suffix(".py").exists()):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        for name in self._files.keys() - files.keys():
            (self.folder / name).unlink(missing_ok=True)
        self._files = files
