"""Rings and frames in the memory that firmware keeps back for Bluetooth, on a model whose heap lies in PSRAM.

The interpreter has no RAM at those addresses by itself: the test maps some there, as the chip has it.
"""

import pytest

from tests.unit.emac_board import MAC, PEER_MAC, PRELUDE, board

OPTION = {"dma_memory": "bluetooth"}
RESERVE = """
import ffi, uctypes
libc = ffi.open("libc.so.6")
got = libc.func("p", "mmap", "pIiiii")(0x3FFB0000, 0x7000, 3, 0x100022, -1, 0)
assert got & 0xFFFFFFFF == 0x3FFB0000, hex(got)
class bluetooth:
    class BLE:
        on = False
        def active(self): return bluetooth.BLE.on
sys.modules["bluetooth"] = bluetooth
"""


def error(b, before=""):
    return b.error("EMAC(config).start(Pool())", psram=True, prelude=PRELUDE + RESERVE + before)


def test_without_the_option_the_error_names_both_remedies():
    with board() as b:
        text = error(b)
        assert "in PSRAM" in text and "without SPIRAM" in text and "dma_memory" in text and "unproven" in text


def test_frames_go_both_ways_through_the_reserve():
    with board(OPTION) as b:
        program = """
lan, pool = up()
assert 0x3FFB0000 <= uctypes.addressof(pool.rx_ring) < uctypes.addressof(pool.frames[-1]) < 0x3FFB6388 - 1535
assert lan.status()["memory"] == "bluetooth (unproven)"
print("up")
for n in range(40):
    i = pool.words[fast.C_RX_NEXT]
    assert poll(lan, 5000, lambda: not fast.owned_by_dma(pool.rx_ring, i))
    length = fast.received_length(pool.words, pool.objects)
    frame = pool.transmit_frame()
    frame[:length] = pool.frames[i][:length]
    fast.release(pool.words, pool.objects)
    lan.refill()
    pool.send(length)
    lan.transmit()
lan.stop(); lan.start(pool)
assert poll(lan, 5000, lan.link)
"""
        process = b.start(program, psram=True, prelude=PRELUDE + RESERVE)
        assert process.stdout.readline() == "up\n", process.stdout.read()
        for n in range(40):
            frame = MAC + PEER_MAC + bytes([n]) * (48 + 36 * n)
            b.peer.send(frame)
            assert b.peer.recv(2048) == frame
        assert process.communicate(timeout=20)[0] == "" and process.returncode == 0
        assert b.breaches() == []


def test_a_heap_that_the_dma_reaches_is_used_whatever_the_option_says():
    with board(OPTION) as b:
        b.run("lan, pool = up()\nassert lan.status()['memory'] == 'heap'")


@pytest.mark.parametrize(
    "before, text",
    [
        ("del sys.modules['bluetooth']\nsys.path[:] = [p for p in sys.path if p != '.frozen']\n", "this firmware has no Bluetooth"),
        ("bluetooth.BLE.on = True\n", "Bluetooth is on and uses this memory"),
        ("config['dma_memory'] = 'i2s'\n", "dma_memory 'i2s': there is only \"bluetooth\""),
        (
            "from barenet.driver import psram\ndef sleep_ms(ms): uctypes.bytearray_at(0x3FFB0100, 1)[0] += 1\npsram.sleep_ms = sleep_ms\n",
            "somebody writes to 0x3FFB0000",
        ),
    ],
)
def test_memory_that_is_not_free_is_refused_by_name(before, text):
    with board(OPTION) as b:
        assert text in error(b, before) and not b.chip.phy.running and b.breaches() == []


def test_a_pool_that_does_not_fit_is_refused():
    with board(OPTION) as b:
        text = b.error("EMAC(config).start(Pool(12, 6))", psram=True, prelude=PRELUDE + RESERVE)
        assert "room for 16 frames" in text
