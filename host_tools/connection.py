"""Run code on a board over its serial port, through mpremote's transport.

Entering the raw REPL never resets the board by itself: the Ethernet MAC writes into the heap until it is stopped, so
whoever resets calls `stop_network` first (`soft_reset` does).
"""

import contextlib
import io
import struct
import time
from collections.abc import Callable, Iterator

import serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from host_tools import serial_ports
from host_tools.errors import BarenetError

BAUD = 115200

_ANSWER = 5  # seconds

_CTRL_C = b"\x03"
_CTRL_D = b"\x04"
_PROMPT = b">>> "
_SOFT_REBOOT = b"soft reboot\r\n"

_STOP_NETWORK = """
import sys
try:
    if "barenet" in sys.modules:
        sys.modules["barenet"].stop()
except Exception as e:
    sys.print_exception(e)
"""


class RemoteError(BarenetError):
    """The board raised an exception; `traceback` is what it printed."""

    def __init__(self, traceback: str):
        self.traceback = traceback.strip().replace("\r\n", "\n")
        super().__init__(f"the board raised {self.traceback.splitlines()[-1] if self.traceback else 'an exception'}")


class _Transport(SerialTransport):
    def read_until(self, min_num_bytes, ending, timeout=10, data_consumer=None, timeout_overall=None):
        """As mpremote's, but `timeout_overall` holds while the board keeps printing, too."""
        if timeout_overall is None:
            return super().read_until(min_num_bytes, ending, timeout, data_consumer)
        data = b""
        deadline = time.monotonic() + timeout_overall
        while not data.endswith(ending) and time.monotonic() < deadline:
            data += self.serial.read(1)
        return data


class Connection:
    """A board in its raw REPL. Use `connect`."""

    def __init__(self, port: str, transport: SerialTransport):
        self.port = port
        self._transport = transport

    def run(self, code: str | bytes, timeout: float | None = 10, output: Callable[[bytes], None] | None = None) -> str:
        """Run a program on the board and return what it printed.

        timeout: the longest silence in seconds, None for no limit; the program is interrupted when it is over.
        output: called with the bytes as they come; the result is then empty.

        Raises RemoteError when the program raised, BarenetError when the board does not answer.
        """
        with self._failures():
            try:
                self._transport.exec_raw_no_follow(code)
                printed, raised = self._transport.follow(timeout, output)
            except TransportError as error:
                if "EOF reception" not in str(error):
                    raise
                self.interrupt()
                raise BarenetError(
                    f"the board printed nothing for {timeout:g} s and was interrupted; --timeout allows more"
                ) from None
        if raised:
            raise RemoteError(raised.decode(errors="replace"))
        return "" if output else printed.decode(errors="replace")

    def start(self, code: str | bytes) -> None:
        """Start a program on the board and do not wait for it."""
        with self._failures():
            self._transport.exec_raw_no_follow(code)

    def interrupt(self) -> None:
        """Stop the program that runs on the board, as Ctrl-C does."""
        with contextlib.suppress(OSError):
            self._transport.serial.write(_CTRL_C)

    def stop_network(self) -> None:
        """Stop barenet on the board if it runs, so that its DMA no longer writes into the heap."""
        self.run(_STOP_NETWORK)

    def clean_heap(self) -> None:
        """Soft reset the board into the raw REPL: boot.py runs, main.py does not."""
        self.stop_network()
        self._enter(soft_reset=True)

    def soft_reset(self, wait: float = 25) -> str:
        """Restart the program on the board: boot.py, then main.py. The connection is of no use afterwards.

        wait: how long to wait for the prompt, in seconds; a main.py that never ends is no error.

        Returns what the board printed until the prompt.
        """
        self.stop_network()
        with self._failures():
            self._transport.exit_raw_repl()
            self._transport.read_until(1, _PROMPT, timeout=_ANSWER, timeout_overall=_ANSWER)
            self._transport.serial.write(_CTRL_D)
            text = self._transport.read_until(1, _SOFT_REBOOT, timeout=_ANSWER, timeout_overall=_ANSWER)
            if not text.endswith(_SOFT_REBOOT):
                raise BarenetError("the board did not restart; press its reset button")
            text = self._transport.read_until(1, _PROMPT, timeout=wait, timeout_overall=wait)
        return text.removesuffix(_PROMPT).decode(errors="replace").replace("\r\n", "\n").strip()

    def _enter(self, soft_reset: bool = False) -> None:
        # mpremote prints what it read when this fails.
        with self._failures(), contextlib.redirect_stdout(io.StringIO()):
            self._transport.enter_raw_repl(soft_reset=soft_reset, timeout_overall=_ANSWER)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except TransportError as error:
            if "raw repl" in str(error):
                raise BarenetError(
                    f"no MicroPython prompt on {self.port}; reset the board, or put firmware on it: barenet flash"
                ) from None
            raise BarenetError(f"the board on {self.port} does not answer as expected: {error}") from None
        except (OSError, struct.error) as error:
            raise BarenetError(serial_ports.explain(self.port, error)) from None

    def _calm(self) -> None:
        """Interrupt what runs and wait for silence, for mpremote waits for it without a bound."""
        port = self._transport.serial
        with self._failures():
            deadline = time.monotonic() + 3
            port.write(b"\r" + _CTRL_C + _CTRL_C)
            quiet = time.monotonic()
            while time.monotonic() - quiet < 0.1:
                if port.in_waiting:
                    port.read(port.in_waiting)
                    quiet = time.monotonic()
                if time.monotonic() > deadline:
                    raise BarenetError(f"the board on {self.port} keeps printing and ignores Ctrl-C; reset it")
                time.sleep(0.01)


@contextlib.contextmanager
def connect(port: str) -> Iterator[Connection]:
    """Open the port, interrupt what runs on the board, and enter the raw REPL without a reset.

    Leaves the friendly REPL behind, for the next program or person.
    Raises BarenetError when the port cannot be opened or no MicroPython answers.
    """
    connection = Connection(port, transport := _open(port))
    try:
        connection._calm()
        connection._enter()
        try:
            yield connection
        except BaseException:
            # Whatever the board was in the middle of, a program or a half-sent one, Ctrl-C ends it.
            connection.interrupt()
            raise
    finally:
        with contextlib.suppress(OSError, TransportError):
            transport.exit_raw_repl()
        with contextlib.suppress(OSError):
            transport.close()


def _open(port: str) -> SerialTransport:
    try:
        return _Transport(port, baudrate=BAUD, timeout=2)
    except (OSError, ValueError) as error:
        raise BarenetError(serial_ports.explain(port, error)) from None
    except TransportError:
        # mpremote keeps the reason to itself: ask once more for it.
        try:
            serial.serial_for_url(port, BAUD, timeout=2, exclusive=True).close()
        except (OSError, ValueError) as error:
            raise BarenetError(serial_ports.explain(port, error)) from None
        raise BarenetError(f"cannot open {port}; try again") from None
