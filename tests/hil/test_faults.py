"""A LAN whose hardware fails while it runs: it says so, waits without hanging or restarting for ever, and recovers."""

import time

import pytest

from host_tools.virtual_board import VirtualBoard

OWNED = "sum(lan.stack.pool.rx_ring[i * 8] >> 31 for i in range(lan.stack.pool.receive))"


@pytest.fixture(scope="module")
def board():
    with VirtualBoard(driver="emac") as board:
        yield board


def value(board, expression):
    return eval(board.exec(f"print(repr({expression}))", 20))


def until(board, expression, seconds=10):
    """Waits on the board until an expression holds; returns whether it does."""
    code = f"import time\nend = time.ticks_add(time.ticks_ms(), {seconds * 1000})\n"
    code += f"while not ({expression}) and time.ticks_diff(end, time.ticks_ms()) > 0: time.sleep_ms(20)\n"
    return board.exec(code + f"print(bool({expression}))", seconds + 10).strip() == "True"


def ping(board):
    command = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "10.77.0.2"]
    return board.run(command, capture_output=True, timeout=10).returncode == 0


FAULTS = {
    "the cable is pulled": {"cable": False},
    "the PHY vanishes": {"phy": False},
    "the clock stops": {"clock": False},
    "the receiver goes deaf": {"deaf": True},
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_while_running_is_survived(board, what):
    healthy = {name: not broken for name, broken in FAULTS[what].items()}
    assert until(board, "lan.isconnected()") and ping(board)
    before = value(board, "lan.status('driver')['restarts']")
    board.chip(faults=FAULTS[what])
    if "deaf" in FAULTS[what]:
        assert not ping(board)
        end = time.monotonic() + 15
        while board.chip()["faults"]["deaf"] and time.monotonic() < end:
            ping(board)
    else:
        assert until(board, "not lan.isconnected()", 5)
        # Nothing hangs, nothing goes round in restarts.
        started = time.monotonic()
        assert value(board, "lan.ping('10.77.0.1', count=2, timeout=0.5)") == [None, None]
        assert time.monotonic() - started < 8
        assert value(board, "lan.status('driver')['restarts']") - before <= 1
        board.chip(faults=healthy)
    assert until(board, "lan.isconnected()") and ping(board)
    assert value(board, "lan.status('driver')['restarts']") - before <= 1
    assert until(board, f"{OWNED} == lan.stack.pool.receive", 3)
    assert board.chip()["breaches"] == []


def test_a_start_without_a_clock_ends_and_can_be_repeated(board):
    board.chip(faults={"clock": False})
    code = "lan.active(False)\nfor _ in range(2):\n    try:\n        lan.active(True)\n    except OSError as e:\n"
    code += "        print(e.args[1][:13])\nprint(lan.active())"
    try:
        assert board.exec(code, 30).splitlines() == ["no RMII clock"] * 2 + ["False"]
    finally:
        board.chip(faults={"clock": True})
    board.exec("lan.active(True)", 20)
    assert until(board, "lan.isconnected()") and ping(board)


def test_wifi_beside_the_apll_is_named_by_the_doctor():
    with VirtualBoard(driver="emac", board="olimex_esp32_poe") as other:
        other.exec("from machine import mem32; mem32[0x3FF000CC] |= 0x0406")
        lines = other.exec("lan.doctor(lambda *row: print(*row) if row[0] == 'finding' else None)", 20)
        assert lines.startswith("finding Wi-Fi is on")
        code = "lan.active(False)\ntry:\n    lan.active(True)\nexcept OSError as e:\n    print(e.args[1])"
        assert "Wi-Fi is on, which disturbs the APLL" in other.exec(code, 20)
