"""What `barenet doctor` decides on the PC: which boards fit, what a search tries, and when no program runs at all."""

import contextlib
import os
import pty
import re
import threading
import tty

import pytest
from click.testing import CliRunner

import host_tools
from host_tools import boards, cli, connection, doctor
from host_tools.connection import RemoteError
from host_tools.errors import BarenetError


def ids(*found, **known):
    return [board.id for board in boards.candidates(*found, **known)]


def test_a_board_is_among_the_candidates_for_what_it_has():
    for board in boards.load_all():
        data = board.data
        pins = frozenset(pin["gpio"] for pin in data.get("pins", ()))
        management = data["phy"]["mdc"], data["phy"]["mdio"]
        assert board.id in ids(data["phy"]["type"], data["phy"]["address"], data["clock"]["mode"], management, pins)


def test_candidates_fit_in_all_that_is_known_and_the_best_come_first():
    assert ids("LAN8720", 1, "gpio0_in", (23, 18), frozenset({16}))[0] == "wt32_eth01"
    assert ids("LAN8720", 0, "gpio17_out", (23, 18), frozenset({12}))[:2] == ["olimex_esp32_poe", "olimex_esp32_poe_iso"]
    assert ids("RTL8201", 0, "gpio0_in", (16, 17)) == ["wesp32"]
    assert ids("KSZ80XX", 0) == [] and "wesp32" in ids("generic", 0)


def test_a_search_tries_every_way_in_which_boards_are_wired_the_harmless_first():
    shapes = doctor.shapes()
    tried = {(c["ref_clk"], c["mdc"], c["mdio"], *sorted(p["gpio"] for p in c["pins"])) for c in shapes}
    for board in boards.load_all():
        c = boards.device_config(board)
        assert (c["ref_clk"], c["mdc"], c["mdio"], *sorted(p["gpio"] for p in c["pins"])) in tried
    assert len(shapes) == len(tried)
    inputs = [c["ref_clk"] == "gpio0_in" for c in shapes]
    assert inputs == sorted(inputs, reverse=True) and shapes[-1]["ref_clk"] == "gpio0_out"


def test_the_table_of_symptoms_in_the_documents_quotes_what_the_doctor_says():
    def plain(text):
        return re.sub(r"%\w|\d+", "#", text)

    driver = (host_tools.ROOT / "firmware" / "barenet" / "driver").glob("*.py")
    said = plain(" ".join(path.read_text() for path in driver) + doctor.IN_ROM_LOADER)
    table = (host_tools.ROOT / "docs" / "driver.md").read_text().partition("| symptom |")[2].partition("\n\n")[0]
    quotes = re.findall(r"\*(.+?)\*", table)
    assert len(quotes) > 35
    for quote in quotes:
        for part in plain(quote).split("…"):
            assert part.strip() in said, quote


class Answer:
    """A connection to a board that prints this."""

    def __init__(self, printed="", traceback=None):
        self.printed, self.traceback = printed, traceback

    def run(self, code, timeout=10):
        if self.traceback:
            raise RemoteError(self.traceback)
        return self.printed


@pytest.mark.parametrize(
    "board, text",
    [
        (Answer('["missing"]\n'), "barenet deploy --board NAME"),
        (Answer('["refused", "which board is this? There is no board.json: …"]\n'), "search for its PHY with --probe"),
        (Answer('["unable", "this LAN has no MAC"]\n'), "a board with the chip's driver is needed"),
        (Answer(traceback="Traceback:\nMemoryError: memory allocation failed"), "too little free memory"),
    ],
)
def test_a_board_that_cannot_be_examined_is_no_finding_but_an_error_with_advice(board, text):
    with pytest.raises(BarenetError, match=text):
        doctor.examine(board)


def test_what_a_program_prints_in_between_is_passed_over():
    found = doctor.examine(Answer('["state", "up", "x"]\n[1, 2]\n[half a line\n42\n["finding", "a", "b"]\n'))
    assert found.findings == [("a", "b")] and not found.healthy and found.board == "x"


@pytest.fixture
def line(monkeypatch):
    """A serial line whose other end is `talk`, called with what arrives."""
    monkeypatch.setattr(connection, "_ANSWER", 1)
    with contextlib.ExitStack() as stack:

        def start(talk):
            near, far = pty.openpty()
            tty.setraw(near)
            tty.setraw(far)
            stack.callback(os.close, near)
            ended = threading.Event()

            def serve():
                with contextlib.suppress(OSError):
                    while not ended.is_set():
                        answer = talk(os.read(near, 4096))
                        if answer:
                            os.write(near, answer)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            stack.callback(os.close, far)
            stack.callback(ended.set)
            return os.ttyname(far)

        yield start


def test_a_board_stuck_in_the_rom_loader_is_told_from_a_dead_one(line):
    """The clock on GPIO0 at reset: the chip waits for a download, and only the serial port can tell."""

    def rom(data):
        return b"\xc0\x01\x08\x04\x00\x07\x07\x12\x20\x00\x00\x00\x00\xc0" if b"\x07\x07\x12\x20" in data else b""

    result = CliRunner().invoke(cli.main, ["doctor", "--port", line(rom)])
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "the board waits for a download" in result.stderr and "GPIO0" in result.stderr


def test_a_silent_board_gets_the_usual_advice(line):
    result = CliRunner().invoke(cli.main, ["doctor", "--port", line(lambda data: b"")])
    assert result.exit_code == 1 and "no MicroPython prompt" in result.stderr
