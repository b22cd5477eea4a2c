"""Firmware images are checked before anything is erased, and a half-flashed board is called one."""

import random
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from esptool.util import FatalError
from serial import SerialException

from host_tools import boards, flash
from host_tools import firmware as images
from host_tools.firmware import FirmwareError
from host_tools.flash import FlashError, HalfFlashed
from tests.unit.esp32_rom import TABLE, Chip, esp_image, firmware, partition_table

BOARD = boards.find("wt32_eth01")
AUTOMATIC = boards.find("olimex_esp32_poe")


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "firmware.bin"
        path.write_bytes(content)
        return path

    return write


# Images


def test_a_complete_image_is_accepted(file):
    image = images.inspect(file(firmware("1.24.1")))
    assert (image.version, image.flash_size, image.psram) == ("1.24.1", 4 << 20, False)


def test_a_psram_firmware_is_recognised(file):
    assert images.inspect(file(firmware(machine="Generic ESP32 module with SPIRAM with ESP32"))).psram


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "not an ESP32 firmware image"),
        (b"<!DOCTYPE html>", "not an ESP32 firmware image"),
        (b"\x7fELF" + b"\0" * 100, "ELF file"),
        (b"\xff" * 0x1000 + firmware(), "dump of the whole flash"),
        (b"\xe9", "bootloader where one belongs"),
        (firmware()[:200], "bootloader is damaged or cut off"),
        (esp_image((0x3F400020, b"app")), "no partition table"),
        (firmware()[:0xF000], "no application where one belongs"),
        (firmware()[:-40], "application is damaged or cut off|application is wrong"),
        (firmware(chip=9), r"another chip .* \(chip id 9\)"),
        (firmware(name="Espruino"), "is not MicroPython"),
        (firmware("1.20.0"), "MicroPython 1.20.0; barenet needs 1.23 or later"),
        (firmware(table=partition_table((1, 2, 0x9000, 0x6000, "nvs"))), "names no application"),
        (firmware(table=TABLE[:-1] + b"\0"), "MD5 of the partition table is wrong"),
    ],
)
def test_what_is_not_a_firmware_is_refused_with_the_reason(file, content, complaint):
    with pytest.raises(FirmwareError, match=complaint):
        images.inspect(file(content))


def test_one_flipped_bit_in_bootloader_table_or_application_is_noticed(file):
    good = firmware()
    generator = random.Random(1)
    areas = [range(0x200), range(0x7000, 0x7000 + len(TABLE)), range(0xF000, len(good))]
    for area in areas * 50:
        bad = bytearray(good)
        bad[generator.choice(area)] ^= 1 << generator.randrange(8)
        with pytest.raises(FirmwareError):
            images.inspect(file(bytes(bad)))


def test_garbage_with_the_right_first_byte_never_raises_anything_else(file):
    generator = random.Random(2)
    for size in (1, 23, 24, 100, 5000, 0x8000):
        with pytest.raises(FirmwareError):
            images.inspect(file(b"\xe9" + generator.randbytes(size)))


def test_a_missing_file_and_an_unknown_version_are_one_line(tmp_path):
    with pytest.raises(FirmwareError, match="there is no firmware file nowhere.bin"):
        images.obtain("nowhere.bin", tmp_path)
    with pytest.raises(FirmwareError, match="MicroPython 9.9 is not one of .* --firmware"):
        images.obtain("9.9", tmp_path)


# Download


@pytest.fixture
def server(tmp_path):
    """A web server on loopback that offers a folder; yields (folder, URL template, list of requested paths)."""
    folder = tmp_path / "www"
    folder.mkdir()
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, form, *arguments):
            requests.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/ESP32_GENERIC-{{date}}-v{{version}}.bin", requests
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_version_is_downloaded_once(server, tmp_path):
    folder, url, requests = server
    (folder / "ESP32_GENERIC-20250415-v1.25.0.bin").write_bytes(firmware())
    seen = []
    for _ in range(2):
        path = images.obtain("1.25.0", tmp_path / "cache", url, progress=lambda done, size: seen.append((done, size)))
        assert path.read_bytes() == firmware()
    assert len(requests) == 1
    assert seen[-1] == (len(firmware()), len(firmware()))


def test_the_pinned_version_is_a_known_release_and_new_enough():
    assert images.VERSION in images.RELEASES
    assert tuple(map(int, images.VERSION.split(".")[:2])) >= (1, 24)


def test_a_damaged_download_is_not_kept(server, tmp_path):
    folder, url, _ = server
    (folder / "ESP32_GENERIC-20250415-v1.25.0.bin").write_bytes(firmware()[:-1000])
    with pytest.raises(FirmwareError, match="did not deliver a firmware"):
        images.obtain(None, tmp_path / "cache", url)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_download_says_what_to_do(server, tmp_path):
    _, url, _ = server
    with pytest.raises(FirmwareError, match="404 .*--firmware FILE"):
        images.obtain(None, tmp_path / "cache", url)
    with pytest.raises(FirmwareError, match="cannot download .*--firmware FILE"):
        images.obtain(None, tmp_path / "cache", "http://127.0.0.1:1/{date}{version}.bin")


# Flashing


@pytest.fixture
def image(file):
    return images.inspect(file(firmware()))


def run(image, chip, board=AUTOMATIC, **options):
    flash.flash(image, board, "/dev/ttyUSB0", open_loader=lambda port: chip, **options)


@pytest.mark.parametrize("stub", [True, False])
def test_the_image_lands_at_0x1000_and_the_board_restarts(image, stub):
    chip, progress = Chip(), []
    run(image, chip, stub=stub, progress=lambda done, total: progress.append((done, total)))
    assert chip.flash[0x1000 : 0x1000 + len(image.data)] == image.data
    assert chip.flash[:0x1000] == b"\0" * 0x1000
    assert chip.was_reset
    assert progress and progress[-1][0] == progress[-1][1]


def test_erase_clears_everything_else(image):
    chip = Chip()
    run(image, chip, erase=True)
    assert chip.flash[:0x1000] == b"\xff" * 0x1000
    assert chip.flash[0x1000 : 0x1000 + len(image.data)] == image.data


def test_a_board_without_automatic_reset_is_started_by_hand(image):
    chip, said = Chip(), []
    run(image, chip, BOARD, say=said.append)
    assert not chip.was_reset
    assert "press EN" in said[-1]


def test_nothing_is_written_when_the_user_says_no(image):
    chip, asked = Chip(), []
    with pytest.raises(FlashError, match="nothing was written"):
        run(image, chip, confirm=lambda summary: asked.append(summary))
    assert chip.writes == []
    assert "MicroPython 1.25.0" in asked[0] and "4 MB" in asked[0]


def test_another_chip_is_refused_before_anything_is_written(image):
    chip = Chip()
    chip.CHIP_NAME = "ESP32-C3"
    with pytest.raises(FlashError, match="ESP32-C3, not an ESP32.*nothing was written"):
        run(image, chip)
    assert chip.writes == []


@pytest.mark.parametrize(
    "flash_id, complaint", [(0x1540EF, "has 2 MB of flash, the firmware needs 4 MB"), (0, "does not answer")]
)
def test_a_flash_that_is_too_small_or_silent_is_refused(image, flash_id, complaint):
    chip = Chip(flash_id=flash_id)
    with pytest.raises(FlashError, match=f"{complaint}.*nothing was written"):
        run(image, chip)
    assert chip.writes == []


def test_a_flash_of_another_size_than_the_board_file_says_is_noted(image):
    said = []
    run(image, Chip(flash_id=0x1840EF), say=said.append)
    assert "should have 4 MB of flash, this board has 16 MB" in said[0]


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), SerialException("device disconnected"), FatalError("no answer")]
)
def test_failure_after_the_first_erase_says_half_flashed_and_how_to_recover(image, failure, monkeypatch):
    monkeypatch.setattr(Chip, "WRITE_FLASH_ATTEMPTS", 1)
    chip = Chip(fail_at=1, failure=failure)
    with pytest.raises(HalfFlashed) as raised:
        run(image, chip, BOARD)
    text = str(raised.value)
    assert "HALF-FLASHED" in text and "\n" not in text
    assert "barenet flash --board wt32_eth01 --port /dev/ttyUSB0" in text and "IO0 to GND" in text
    assert raised.value.exit_code != 0


def test_failed_verification_is_half_flashed_too(image):
    with pytest.raises(HalfFlashed, match="MD5 of file does not match"):
        run(image, Chip(corrupt=True))


def test_failure_before_the_first_erase_says_that_nothing_was_written(image):
    class Deaf(Chip):
        def run_stub(self, stub=None):
            raise FatalError("Failed to start stub")

    with pytest.raises(FlashError, match="Failed to start stub.*nothing was written") as raised:
        run(image, Deaf())
    assert not isinstance(raised.value, HalfFlashed)


def test_no_answer_tells_how_to_start_the_rom_loader(image):
    def nobody(port):
        raise FatalError("Failed to connect to Espressif device: No serial data received.\nFor troubleshooting …")

    with pytest.raises(FlashError, match=r"no ESP32 answers on /dev/x.*IO0 to GND") as raised:
        flash.flash(image, BOARD, "/dev/x", open_loader=nobody)
    assert not re.search(r"\n", str(raised.value))


def test_erase_without_the_stub_is_refused_at_once(image):
    with pytest.raises(FlashError, match="--no-stub"):
        run(image, Chip(), erase=True, stub=False)
