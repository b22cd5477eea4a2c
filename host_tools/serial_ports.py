"""Serial ports: which there are, and which one is meant."""

import errno
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serial.tools import list_ports

from host_tools.errors import BarenetError


@dataclass(frozen=True)
class Port:
    """A serial port of this PC; `usb` is "vid:pid" in hexadecimal, empty for a port that is not on USB."""

    device: str
    description: str
    usb: str
    serial_number: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def ports() -> list[Port]:
    """The serial ports of this PC, those on USB first."""
    found = [
        Port(
            info.device,
            "" if info.description in (None, "n/a") else info.description,
            f"{info.vid:04x}:{info.pid:04x}" if info.vid is not None else "",
            info.serial_number or "",
        )
        for info in list_ports.comports()
    ]
    return sorted(found, key=lambda port: (not port.usb, port.device))


def choose(name: str | None) -> str:
    """The port with this name, or the only one on USB.

    Raises BarenetError when there is none, more than one to choose from, or no access to it.
    """
    if name is None:
        found = [port for port in ports() if port.usb]
        if not found:
            raise BarenetError("no USB serial port found; plug the board in, or name the port with --port")
        if len(found) > 1:
            names = ", ".join(port.device for port in found)
            raise BarenetError(f"several USB serial ports found; choose one with --port: {names}")
        name = found[0].device
    if os.name == "posix" and "://" not in name:
        _check_access(name)
    return name


def _check_access(name: str) -> None:
    path = Path(name)
    if not path.exists():
        others = ", ".join(port.device for port in ports()) or "none"
        raise BarenetError(f"there is no port {name}; ports found: {others}")
    if not path.is_char_device():
        raise BarenetError(f"{name} is not a serial port")
    if not os.access(path, os.R_OK | os.W_OK):
        group = path.group() if path.stat().st_mode & 0o060 == 0o060 else None
        remedy = f"join its group (sudo usermod -aG {group} $USER) and log in again" if group else "ask its owner"
        raise BarenetError(f"no permission to use {name}; {remedy}")


def explain(name: str, error: BaseException) -> str:
    """One line on why a port could not be opened or was lost."""
    code = getattr(error, "errno", None)
    if code in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error):
        return f"{name} is in use by another program; close it (a monitor, a terminal?) and try again"
    if not _present(name):
        return f"{name} is gone; is the board still plugged in?"
    return f"cannot use {name}: {' '.join(str(error).split()) or type(error).__name__}"


def _present(name: str) -> bool:
    return "://" in name or os.name != "posix" or Path(name).exists()
