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
        self._sources: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Compiles what has changed or was lost. Raises BarenetError with the compiler's message."""
        sources = deploy.sources()
        if self._architecture:
            sources = deploy.fold_constants(sources)
        for name, content in sources.items():
            if self._sources.get(name) != content or not any(file.exists() for file in self._files(name)):
                self._put(name, content)
        for name in self._sources.keys() - sources.keys():
            for file in self._files(name):
                file.unlink(missing_ok=True)
        self._sources = sources

    def _put(self, name: str, content: bytes) -> None:
        files = {name: content}
        if self._architecture:
            files = deploy.compile_folded(files, self._architecture, _OPTIMIZE)
        for path, data in files.items():
            file = self.folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    def _files(self, name: str) -> tuple[Path, Path]:
        source = self.folder / name
        return source, source.with_suffix(".mpy")
