"""MicroPython firmware images for the ESP32: get one, and check it before anything is erased.

A complete image, as micropython.org offers it, is written to flash address 0x1000 and holds the bootloader, the
partition table (flash address 0x8000) and the application. Format: ESP-IDF, "App Image Format" and "Partition Tables".
"""

import contextlib
import hashlib
import io
import re
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host_tools import CACHE
from host_tools.errors import BarenetError

FLASH_ADDRESS = 0x1000
VERSION = "1.25.0"
OLDEST = (1, 23)  # earlier ones load other .mpy, and their viper has no ~

# Release dates, which are part of the file names.
RELEASES = {
    "1.23.0": "20240602",
    "1.24.1": "20241129",
    "1.25.0": "20250415",
}
URL = "https://micropython.org/resources/firmware/ESP32_GENERIC-{date}-v{version}.bin"
DOWNLOAD_PAGE = "https://micropython.org/download/ESP32_GENERIC/"

_IMAGE_MAGIC = 0xE9
_PARTITION_TABLE = 0x8000 - FLASH_ADDRESS
_PARTITION_TABLE_SIZE = 0xC00
_PARTITION_MAGIC = b"\xaa\x50"
_PARTITION_MD5 = b"\xeb\xeb" + b"\xff" * 14
_TYPE_APP = 0
_LARGEST = 16 << 20
_TIMEOUT = 30


class FirmwareError(BarenetError):
    """A firmware file that is missing, damaged or not for this chip."""


@dataclass(frozen=True)
class Image:
    """A checked image.

    version: of MicroPython, such as "1.25.0".
    flash_size: the flash that its partitions need, in bytes.
    psram: whether the firmware puts its heap into PSRAM when the module has some.
    """

    path: Path
    data: bytes
    version: str
    flash_size: int
    psram: bool


def obtain(
    wanted: str | None = None,
    cache: Path = CACHE / "firmware",
    url: str = URL,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """The file of a firmware: `wanted` is a path, a version of `RELEASES`, or None for `VERSION`.

    A version is downloaded once and kept in `cache`. url: template with {date} and {version}.
    progress: called with (bytes so far, bytes in all, 0 when unknown).

    Raises FirmwareError when the file does not exist, the version is unknown, or the download fails.
    """
    wanted = wanted or VERSION
    version = wanted.removeprefix("v")
    if version not in RELEASES:
        path = Path(wanted)
        if path.is_file():
            return path
        if re.fullmatch(r"v?\d+\.\d+(\.\d+)?", wanted):
            raise FirmwareError(
                f"MicroPython {version} is not one of {', '.join(RELEASES)}; download it from {DOWNLOAD_PAGE} "
                "and name the file with --firmware"
            )
        raise FirmwareError(f"there is no firmware file {wanted}")
    source = url.format(date=RELEASES[version], version=version)
    path = cache / source.rpartition("/")[2]
    if not path.exists():
        _download(source, path, progress)
    return path


def _download(source: str, path: Path, progress: Callable[[int, int], None] | None) -> None:
    partial = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(source, timeout=_TIMEOUT) as answer, partial.open("wb") as file:
            size = int(answer.headers.get("Content-Length") or 0)
            done = 0
            while block := answer.read(1 << 16):
                done += len(block)
                if done > _LARGEST:
                    raise FirmwareError(f"{source} is larger than any ESP32 firmware; not kept")
                file.write(block)
                if progress:
                    progress(done, size)
        if size and done != size:
            raise FirmwareError(f"the download of {source} broke off at {done} of {size} bytes; try again")
        # A damaged download must not be what the cache offers for ever.
        try:
            inspect(partial)
        except FirmwareError as error:
            raise FirmwareError(f"{source} did not deliver a firmware: {error}") from None
        partial.rename(path)
    except urllib.error.HTTPError as error:
        raise FirmwareError(
            f"{source}: {error.code} {error.reason}; download it by hand and use --firmware FILE"
        ) from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise FirmwareError(
            f"cannot download {source} ({reason}); this needs the internet once, or use --firmware FILE"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def inspect(path: Path) -> Image:
    """Read a firmware file and check that it is a complete, undamaged MicroPython for the ESP32.

    Checked: image header and chip, checksum and SHA-256 of bootloader and application as the images themselves carry
    them, MD5 of the partition table, version.

    Raises FirmwareError with the first thing that is wrong.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise FirmwareError(f"{path} is larger than any ESP32 firmware")
        data = path.read_bytes()
    except OSError as error:
        raise FirmwareError(f"cannot read {path}: {error.strerror}") from None

    if not data or data[0] != _IMAGE_MAGIC:
        hint = ""
        if data[:1] == b"\xff":
            hint = " (it looks like a dump of the whole flash; a firmware file starts at flash address 0x1000)"
        elif data[:4] == b"\x7fELF":
            hint = " (it is an ELF file; use the .bin)"
        elif data[:4] == b"UF2\n":
            hint = " (it is a UF2 file for another chip)"
        raise FirmwareError(f"{path} is not an ESP32 firmware image{hint}")
    _check_image(path, "bootloader", data)
    app, flash_size = _partitions(path, data)
    _check_image(path, "application", data[app:])

    match = re.search(rb"MicroPython v(\d+\.\d+(?:\.\d+)?)[-.\w]* on \d{4}-\d\d-\d\d", data[app:])
    if not match:
        raise FirmwareError(f"{path} is not MicroPython")
    version = match[1].decode()
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise FirmwareError(f"{path} is MicroPython {version}; barenet needs {OLDEST[0]}.{OLDEST[1]} or later")
    psram = b"with SPIRAM" in data[app:]
    return Image(path, data, version, max(flash_size, FLASH_ADDRESS + len(data)), psram)


def _check_image(path: Path, what: str, data: bytes) -> None:
    """Check one ESP image at the start of `data`: chip, checksum, digest."""
    from esptool.bin_image import LoadFirmwareImage
    from esptool.util import FatalError

    if len(data) < 24 or data[0] != _IMAGE_MAGIC:
        raise FirmwareError(f"{path} has no {what} where one belongs: it is cut off, or not a complete firmware")
    chip = struct.unpack_from("<H", data, 12)[0]
    if chip != 0:
        raise FirmwareError(f"{path} is for another chip of the ESP32 family (chip id {chip}), not for the ESP32")
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            image = LoadFirmwareImage("esp32", data)
    except (FatalError, struct.error, IndexError) as error:
        raise FirmwareError(f"{path}: the {what} is damaged or cut off ({' '.join(str(error).split())})") from None
    if image.checksum != image.calculate_checksum():
        raise FirmwareError(f"{path}: the checksum of the {what} is wrong; the file is damaged")
    if not image.append_digest or image.stored_digest != image.calc_digest:
        raise FirmwareError(f"{path}: the SHA-256 of the {what} is wrong; the file is damaged")


def _partitions(path: Path, data: bytes) -> tuple[int, int]:
    """By the partition table: where in the file the application is, and where in the flash the last partition ends."""
    table = data[_PARTITION_TABLE : _PARTITION_TABLE + _PARTITION_TABLE_SIZE]
    if table[:2] != _PARTITION_MAGIC:
        raise FirmwareError(
            f"{path} has no partition table at flash address 0x8000: it is not a complete firmware (an .app-bin?)"
        )
    application = end = 0
    for start in range(0, len(table) - 31, 32):
        entry = table[start : start + 32]
        if entry[:16] == _PARTITION_MD5:
            if entry[16:] != hashlib.md5(table[:start]).digest():
                raise FirmwareError(f"{path}: the MD5 of the partition table is wrong; the file is damaged")
            break
        if entry == b"\xff" * 32:
            break
        if entry[:2] != _PARTITION_MAGIC:
            raise FirmwareError(f"{path}: the partition table is damaged")
        offset, size = struct.unpack_from("<II", entry, 4)
        end = max(end, offset + size)
        if entry[2] == _TYPE_APP and not application:
            application = offset
    if application <= FLASH_ADDRESS:
        raise FirmwareError(f"{path}: the partition table names no application")
    return application - FLASH_ADDRESS, end
