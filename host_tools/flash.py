"""Write MicroPython into the flash of an ESP32, through esptool's Python API.

Everything that can be checked is checked before the first erase: the image, the chip, the size of its flash. From
then until the verified end the board is half-flashed, and whatever goes wrong in between says so.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from esptool import cmds
from esptool.loader import ESPLoader
from esptool.logger import TemplateLogger, log
from esptool.util import FatalError, flash_size_bytes

from host_tools import connection, serial_ports
from host_tools.boards import Board
from host_tools.errors import BarenetError
from host_tools.firmware import FLASH_ADDRESS, Image

BAUD = 460800
MB = 1 << 20

_WRITERS = ("erase_flash", "flash_begin", "flash_defl_begin")


class FlashError(BarenetError):
    """Flashing failed and nothing was written."""


class HalfFlashed(FlashError):
    """Flashing failed after the first erase: the board does not start until it is flashed again."""

    exit_code = 2


class _Quiet(TemplateLogger):
    """esptool's logger reduced to its progress."""

    def __init__(self, progress: Callable[[int, int], None]):
        self._progress = progress

    def progress_bar(self, cur_iter, total_iters, prefix="", suffix="", bar_length=30):
        self._progress(cur_iter, total_iters)

    def print(self, *args, **kwargs):
        pass

    def note(self, message):
        pass

    def warning(self, message):
        pass

    def error(self, message):
        pass

    def stage(self, finish=False):
        pass

    def set_verbosity(self, verbosity):
        pass


def flash(
    image: Image,
    board: Board,
    port: str,
    *,
    erase: bool = False,
    baud: int = BAUD,
    stub: bool = True,
    confirm: Callable[[str], bool] = lambda summary: True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
    open_loader: Callable[[str], ESPLoader] = cmds.detect_chip,
) -> None:
    """Write `image` to the board on `port` and verify it.

    erase: erase the whole flash first, the board's files included; needs the stub.
    baud: speed of the transfer. stub: use esptool's flasher stub (faster).
    confirm: gets one line on what is about to happen, returns False to stop.
    progress: gets (done, total) while writing, in units of esptool's choice. say: gets lines for people.
    open_loader: connects to the ROM loader on a port, and returns esptool's object for the chip.

    Raises FlashError when nothing was written, HalfFlashed when the board was left without a working firmware.
    """
    if erase and not stub:
        raise FlashError("erasing the whole flash needs the stub: leave out either --erase or --no-stub")
    with _logger(progress):
        loader = _connect(port, board, open_loader)
        written = False

        def touch(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal written
                written = True
                return method(*args, **kwargs)

            return call

        try:
            _check_chip(loader)
            if stub:
                loader = cmds.run_stub(loader)
                loader.change_baud(baud)
            cmds.attach_flash(loader)
            size = _check_flash(loader, image, board, say)
            what = "erase the whole flash and write" if erase else "write"
            mac = ":".join(f"{byte:02x}" for byte in loader.read_mac())
            if not confirm(f"{what} MicroPython {image.version} to the ESP32 {mac} ({size // MB} MB) on {port}"):
                raise FlashError("stopped; nothing was written to the board")
            for name in _WRITERS:
                setattr(loader, name, touch(getattr(loader, name)))
            if erase:
                say("erasing the flash (up to a minute) …")
                cmds.erase_flash(loader)
            cmds.write_flash(loader, [(FLASH_ADDRESS, image.data)])
        except KeyboardInterrupt:
            if written:
                raise _half_flashed(board, port, "interrupted") from None
            raise
        except (FatalError, OSError) as error:
            reason = " ".join(str(error).split())
            if written:
                raise _half_flashed(board, port, reason) from None
            raise FlashError(f"{reason} (nothing was written to the board)") from None
        else:
            _restart(loader, board, say)
        finally:
            with contextlib.suppress(OSError, AttributeError):
                loader._port.close()


def _half_flashed(board: Board, port: str, reason: str) -> HalfFlashed:
    return HalfFlashed(
        f"{reason}. THE BOARD IS HALF-FLASHED and will not start. Nothing is broken for good: flash it again with "
        f"'barenet flash --board {board.id} --port {port}'; if it does not connect, {board.manual}"
    )


@contextlib.contextmanager
def _logger(progress: Callable[[int, int], None]) -> Iterator[None]:
    from esp_pylib.logger import EspLog

    before = EspLog.instance
    log.set_logger(_Quiet(progress))
    try:
        yield
    finally:
        EspLog.instance = before


def _connect(port: str, board: Board, open_loader: Callable[[str], ESPLoader]) -> ESPLoader:
    try:
        return open_loader(port)
    except OSError as error:
        raise FlashError(serial_ports.explain(port, error)) from None
    except FatalError as error:
        if "port is busy" in str(error) or "Could not open" in str(error):
            raise FlashError(f"cannot open {port}; close the program that uses it and try again") from None
        raise FlashError(
            f"no ESP32 answers on {port} (nothing was written to the board); {board.manual}, and try again"
        ) from None


def _check_chip(loader: ESPLoader) -> None:
    if loader.CHIP_NAME != "ESP32":
        raise FlashError(
            f"this is an {loader.CHIP_NAME}, not an ESP32: it has no Ethernet MAC (nothing was written to the board)"
        )


def _check_flash(loader: ESPLoader, image: Image, board: Board, say: Callable[[str], None]) -> int:
    detected = cmds.detect_flash_size(loader)
    if detected is None:
        raise FlashError("the flash chip of the board does not answer (nothing was written to the board)")
    size = flash_size_bytes(detected)
    if size < image.flash_size:
        raise FlashError(
            f"the board has {size // MB} MB of flash, the firmware needs {image.flash_size // MB} MB "
            "(nothing was written to the board)"
        )
    if board.flash_mb and size != board.flash_mb * MB:
        say(f"note: {board.id} should have {board.flash_mb} MB of flash, this board has {size // MB} MB")
    return size


def _restart(loader: ESPLoader, board: Board, say: Callable[[str], None]) -> None:
    if board.auto_reset is False:
        say("written and verified. Take GPIO0 off GND (release BOOT) and press EN (RESET) to start MicroPython.")
        return
    with contextlib.suppress(FatalError, OSError):
        cmds.reset_chip(loader, "hard-reset")
    say("written and verified.")


def first_boot(port: str, wait: float = 20) -> str | None:
    """Wait for MicroPython to come up after flashing (it formats its file system first).

    wait: how long at most, in seconds. Returns its version, or None when it did not answer.
    """
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        with contextlib.suppress(BarenetError), connection.connect(port) as board:
            return board.run("import os; print(os.uname().release)").strip()
        time.sleep(1)
    return None
