"""Show what a board prints, with the time, through unplugging and resets."""

import codecs
import time
from collections.abc import Callable
from datetime import datetime
from typing import TextIO

import serial

from host_tools import serial_ports
from host_tools.connection import BAUD
from host_tools.errors import BarenetError

_POLL = 0.1
_RETRY = 0.5
# A prompt has no line end: what stays unfinished this long is shown as it is.
_FLUSH = 0.3


class Lines:
    """Cuts a stream of bytes into lines; invalid UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> list[str]:
        """Take bytes in, return the lines that they complete, without line ends."""
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        return [line.rstrip("\r") for line in lines]

    def flush(self) -> str:
        """Return and forget the unfinished line."""
        rest, self._rest = self._rest, ""
        return rest.rstrip("\r")


def stamp() -> str:
    """The time of day with milliseconds."""
    return datetime.now().isoformat(sep=" ", timespec="milliseconds").partition(" ")[2]


def monitor(
    port: str,
    show: Callable[[str, str], None],
    notice: Callable[[str], None],
    log: TextIO | None = None,
    duration: float | None = None,
) -> None:
    """Read from `port` until KeyboardInterrupt, or for `duration` seconds.

    show: gets (time, line). notice: gets lines about the port. log: gets every line with its date.

    Waits for the port when it vanishes. Raises BarenetError when it cannot be opened at the start.
    """
    end = None if duration is None else time.monotonic() + duration
    lines = Lines()

    def out(line: str) -> None:
        show(stamp(), line)
        if log:
            log.write(f"{datetime.now().isoformat(timespec='milliseconds')} {line}\n")
            log.flush()

    source = _open(port)
    try:
        last = time.monotonic()
        while end is None or time.monotonic() < end:
            try:
                if source is None:
                    source = _reopen(port)
                    if source is None:
                        time.sleep(_RETRY)
                        continue
                    notice(f"{port} is back")
                data = source.read(max(1, source.in_waiting))
            except (OSError, TypeError) as error:  # pyserial raises TypeError when the port closes under a read
                notice(f"{serial_ports.explain(port, error)}; waiting for it")
                if source:
                    source.close()
                source = None
                continue
            if data:
                last = time.monotonic()
                for line in lines.feed(data):
                    out(line)
            elif time.monotonic() - last > _FLUSH and (rest := lines.flush()):
                out(rest)
        if rest := lines.flush():
            out(rest)
    finally:
        if source:
            source.close()


def _open(port: str) -> serial.SerialBase:
    try:
        return serial.serial_for_url(port, BAUD, timeout=_POLL, exclusive=True)
    except (OSError, ValueError) as error:
        raise BarenetError(serial_ports.explain(port, error)) from None


def _reopen(port: str) -> serial.SerialBase | None:
    try:
        return _open(port)
    except BarenetError:
        return None
