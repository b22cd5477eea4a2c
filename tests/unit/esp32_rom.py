"""What flashing needs: an ESP32 that answers esptool's commands, and firmware images that are valid to the byte."""

import hashlib
import struct
import zlib
from types import SimpleNamespace

from esptool.targets import ESP32ROM

FLASH_ID = 0x1640EF  # Winbond, 4 MB

_READ_REG, _SPI_PARAMS, _SPI_ATTACH, _WRITE_REG = 0x0A, 0x0B, 0x0D, 0x09
_FLASH_BEGIN, _FLASH_DATA, _FLASH_END = 0x02, 0x03, 0x04
_DEFL_BEGIN, _DEFL_DATA, _DEFL_END = 0x10, 0x11, 0x12
_MD5, _CHANGE_BAUD, _ERASE_FLASH = 0x13, 0x0F, 0xD0


class Chip(ESP32ROM):
    """An ESP32 in its ROM loader, or running the stub: esptool's own class with the serial line cut off.

    flash: its memory. writes: erase and write commands so far. fail_at: raise `failure` at this write command.
    """

    def __init__(self, flash_id=FLASH_ID, fail_at=None, failure=None, corrupt=False):
        self._port = SimpleNamespace(close=lambda: None, baudrate=115200)
        self.cache = {"flash_id": None, "uart_no": None, "usb_pid": None, "security_info": None}
        self.secure_download_mode = False
        self.stub_is_disabled = self._trace_enabled = False
        self.flash = bytearray(b"\0" * (4 << 20))
        self.writes = []
        self.flash_id_value = flash_id
        self.fail_at, self.failure, self.corrupt = fail_at, failure, corrupt
        self.was_reset = False

    def command(self, op=None, data=b"", chk=0, wait_response=True, timeout=3):
        ok = b"\0\0\0\0"
        if op == _READ_REG:
            (address,) = struct.unpack("<I", data)
            spi_data = address == self.SPI_REG_BASE + self.SPI_W0_OFFS
            return self.flash_id_value if spi_data else 0, ok
        if op in (_FLASH_BEGIN, _FLASH_DATA, _DEFL_BEGIN, _DEFL_DATA, _ERASE_FLASH):
            if len(self.writes) == self.fail_at:
                raise self.failure
            self.writes.append(op)
        if op in (_FLASH_BEGIN, _DEFL_BEGIN):
            size, _, _, self._offset = struct.unpack_from("<IIII", data)
            self.flash[self._offset : self._offset + size] = b"\xff" * size
            self._inflate = zlib.decompressobj()
        elif op in (_FLASH_DATA, _DEFL_DATA):
            block = data[16:] if op == _FLASH_DATA else self._inflate.decompress(data[16:])
            self.flash[self._offset : self._offset + len(block)] = block
            self._offset += len(block)
        elif op == _ERASE_FLASH:
            self.flash[:] = b"\xff" * len(self.flash)
        elif op == _MD5:
            address, size = struct.unpack_from("<II", data)
            if self.corrupt:
                self.flash[address + 100] ^= 1
            digest = hashlib.md5(self.flash[address : address + size])
            return 0, (digest.digest() if self.IS_STUB else digest.hexdigest().encode()) + ok
        return 0, ok

    def run_stub(self, stub=None):
        self.IS_STUB = True
        self.FLASH_WRITE_SIZE = 0x4000
        return self

    def change_baud(self, baud):
        self.baud = baud

    def hard_reset(self):
        self.was_reset = True


def esp_image(*segments, chip=0):
    """One ESP image: header, segments of (load address, bytes), checksum, SHA-256 (ESP-IDF, "App Image Format")."""
    image = struct.pack("<BBBBI", 0xE9, len(segments), 2, 0x20, 0x40080400)
    image += struct.pack("<BBBBHBHH4xB", 0xEE, 0, 0, 0, chip, 0, 0, 0, 1)
    checksum = 0xEF
    for address, content in segments:
        content += b"\0" * (-len(content) % 4)
        image += struct.pack("<II", address, len(content)) + content
        for byte in content:
            checksum ^= byte
    image += b"\0" * (15 - len(image) % 16) + bytes([checksum])
    return image + hashlib.sha256(image).digest()


def partition_table(*entries):
    """Entries of (type, subtype, offset, size, name) and the MD5 over them."""
    table = b"".join(
        struct.pack("<2sBBII16sI", b"\xaa\x50", kind, sub, offset, size, name.encode(), 0)
        for kind, sub, offset, size, name in entries
    )
    return table + b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(table).digest()


TABLE = partition_table(
    (1, 2, 0x9000, 0x6000, "nvs"), (0, 0, 0x10000, 0x1F0000, "factory"), (1, 0x81, 0x200000, 0x200000, "vfs")
)


def firmware(version="1.25.0", machine="Generic ESP32 module with ESP32", chip=0, table=TABLE, name="MicroPython"):
    """A complete firmware as micropython.org offers it, with next to no code in it."""
    bootloader = esp_image((0x3FFF0030, b"boot" * 64), (0x40080400, b"\0" * 256), chip=chip)
    banner = f"{name} v{version} on 2025-04-15\0; {machine}\0".encode()
    application = esp_image((0x3F400020, banner + bytes(range(256)) * 40), (0x40080000, b"\x36\x41" * 512), chip=chip)
    image = bootloader.ljust(0x7000, b"\xff") + table
    return image.ljust(0xF000, b"\xff") + application
