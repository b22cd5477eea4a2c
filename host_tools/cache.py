"""What is fetched or made once and kept for the next time."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from host_tools import CACHE

_KEPT = 24  # sets of files; a change of the firmware makes a few of them


def folder() -> Path:
    """Returns the folder that it is kept in: BARENET_CACHE, else the checkout's .cache, else the user's own."""
    named = os.environ.get("BARENET_CACHE")
    if named:
        return Path(named).absolute()
    if os.access(CACHE if CACHE.exists() else CACHE.parent, os.W_OK):
        return CACHE
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barenet"


def made(what: str, of: Iterable[bytes], make: Callable[[], dict[str, bytes]]) -> dict[str, bytes]:
    """Returns the files, by name, that make() gives; from the cache when it has been called for the same before.

    what: the folder in the cache. of: all that the outcome depends on. Where the cache cannot be read or written, make() is called.
    """
    key = hashlib.sha256()
    for part in of:
        key.update(hashlib.sha256(part).digest())
    kept = folder() / what / f"{key.hexdigest()}.zip"
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(kept) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
    files = make()
    with suppress(OSError):
        _keep(kept, files)
    return files


def _keep(kept: Path, files: dict[str, bytes]) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        # Others may look for it, or make the same, at this moment.
        file = Path(scratch, "files.zip")
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        file.replace(kept)
    for old in sorted(kept.parent.glob("*.zip"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)
