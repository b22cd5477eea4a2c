"""`lan.doctor()` and `barenet doctor` on virtual boards whose hardware is healthy or not."""

import json

import pytest
from click.testing import CliRunner

from host_tools import cli
from host_tools import doctor as library
from host_tools.connection import connect
from host_tools.doctor import FAULT
from host_tools.virtual_board import VirtualBoard


def restart(board):
    """Runs boot.py and main.py again; returns what they print."""
    with connect(board.serial) as connection:
        return connection.soft_reset()


@pytest.fixture(scope="module")
def shared():
    with VirtualBoard(driver="emac", board="wt32_eth01") as board:
        yield board


@pytest.fixture
def board(shared):
    """A board that is up, with its own board file and nothing wrong."""
    file = shared.fs / "board.json"
    good = file.read_bytes()
    yield shared
    shared.chip(faults={"cable": True, "clock": True, "phy": True, "mdio_low": False})
    file.write_bytes(good)
    assert "is up" in restart(shared)


@pytest.fixture
def few_inputs(monkeypatch):
    """A search skips most clock inputs: each without a clock takes a second."""
    every = library.shapes()
    few = [shape for shape in every if shape["ref_clk"] != "gpio0_in" or any(p["gpio"] == 16 for p in shape["pins"])]
    monkeypatch.setattr(library, "shapes", lambda: few)


def doctor(board, *arguments):
    return CliRunner().invoke(cli.main, ["doctor", *arguments, "--port", board.serial])


def diagnosis(board, *arguments):
    result = doctor(board, "--json", *arguments)
    assert result.stderr == "" or "--probe" in arguments, result.stderr
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["healthy"] else FAULT)
    return found


def up(board):
    return board.exec("print(lan.active(), lan.isconnected())").split()


# On the board


def test_it_prints_steps_registers_and_verdict_at_the_prompt(board):
    lines = board.exec("lan.doctor()", 20).splitlines()
    assert "register      BUSMODE                0x02C12080  ATDS PBL=32 FB RPBL=32 USP AAL" in lines
    assert lines[-1] == "healthy" and not any(line.startswith("step") for line in lines)
    lines = board.exec("lan.active(False); lan.doctor(); print(lan.active())", 40).splitlines()
    assert "step          MAC reset              ok" in lines and lines[-2:] == ["healthy", "False"]


def test_it_fits_beside_a_running_stack_and_gives_its_memory_back(board):
    code = """
import gc
low = [1 << 30]
def note(*row):
    gc.collect()
    low[0] = min(low[0], gc.mem_free())
def look(): lan.doctor(note)
look()
gc.collect(); before = gc.mem_free()
free = []
for _ in range(8):
    look()
    gc.collect(); free.append(gc.mem_free())
print(low[0], before - max(free[4:]))
"""
    # The collector may take a word on the stack for a pointer, so not every look gives all back.
    lowest, lost = map(int, board.exec(code, 40).split())
    assert lowest > 8 * 1024 and lost < 512


def test_connections_survive_the_look(shared):
    shared.exec("import socket; s = socket.socket(); s.bind(('', 8000)); s.listen(1); lan.doctor(lambda *row: None)", 20)
    assert up(shared) == ["True", "True"] and shared.exec("print(len(lan.stack.tcp.listeners))").strip() == "1"
    shared.exec("s.close()")


def test_after_a_failed_start_it_names_the_cause_and_the_lan_starts_once_that_is_gone(board):
    board.chip(faults={"clock": False})
    code = "lan.active(False)\ntry:\n    lan.active(True)\nexcept OSError as e:\n    print(e.args[1][:13])\n"
    code += "lan.doctor()\nprint(lan.active())"
    lines = board.exec(code, 40).splitlines()
    assert lines[0] == "no RMII clock" and lines[-1] == "False"
    assert any(line.startswith("finding       GPIO0 does not toggle") for line in lines)
    board.chip(faults={"clock": True})
    board.exec("lan.active(True); lan.wait(10)", 20)
    assert up(board) == ["True", "True"]


def test_at_the_prompt_of_a_board_whose_lan_did_not_come_up():
    with VirtualBoard(driver="emac", before=lambda board: board.chip(faults={"clock": False})) as board:
        lines = board.exec("lan.doctor()", 40).splitlines()
        assert any(line.startswith("finding       the step “MAC reset” fails no RMII clock") for line in lines)
        assert lines[-1] == "findings: 2"


def test_without_a_mac_it_says_so():
    with VirtualBoard(driver="tap") as tap:
        assert "its driver is tap" in tap.exec("try:\n    lan.doctor()\nexcept OSError as e:\n    print(e.args[1])")
        result = doctor(tap)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1
        assert "no MAC and no PHY to examine" in result.stderr and "--driver emac" in result.stderr
        assert "no EMAC" in doctor(tap, "--board", "wt32_eth01").stderr


# From the PC


def test_a_healthy_board_that_is_up(shared):
    found = diagnosis(shared)
    assert found["healthy"] and found["state"] == "up" and found["board"] == "wt32_eth01" and found["steps"] == []
    assert found["phy"]["id"] == "0x0007C0F1" and found["candidates"][0] == "wt32_eth01"
    assert ["CONFIG", "0x0000C80C", "RE TE DM FES PS"] in found["registers"]
    assert up(shared) == ["True", "True"]


def test_the_report_for_people(shared):
    result = doctor(shared)
    assert result.exit_code == 0
    for text in ("BUSMODE", "PHY 31", "wt32_eth01, up", "healthy", "next: nothing to do"):
        assert text in result.stdout


def test_no_cable(board):
    board.chip(faults={"cable": False})
    board.exec("import time; time.sleep(1)")
    found = diagnosis(board)
    cause = "no cable, or nothing switched on at its other end"
    assert found["findings"][0] == ["no energy on the line (register 17)", cause]
    result = doctor(board)
    assert result.exit_code == FAULT and "no energy on the line" in result.stdout
    assert "next: remove the cause" in result.stdout


def test_a_board_that_is_down_is_tried_and_left_down(board):
    board.exec("lan.active(False)")
    board.chip(faults={"mdio_low": True})
    found = diagnosis(board)
    assert found["state"] == "down" and found["steps"][-1][0] == "PHY"
    assert "MDIO is held low" in found["steps"][-1][1] and found["next"].endswith("barenet doctor --probe")
    assert board.exec("print(lan.active())").strip() == "False"


def test_the_wrong_board_file_leads_to_the_right_one(board):
    found = diagnosis(board, "--board", "lilygo_t_eth_lite")
    assert not found["healthy"] and found["state"] == "tried" and "one answers at 1" in found["findings"][0][1]
    assert "wt32_eth01" in found["candidates"]
    board.exec("lan.wait(10)", 15)
    assert up(board) == ["True", "True"], "it comes back with its own file"
    found = diagnosis(board, "--board", "smlight_slzb_06")
    assert found["healthy"] and found["next"] == "barenet deploy --board smlight_slzb_06"


def test_another_address_suggests_boards_that_have_it(board):
    config = json.loads((board.fs / "board.json").read_text())
    config["phy"]["address"] = 0
    (board.fs / "board.json").write_text(json.dumps(config))
    restart(board)
    found = diagnosis(board)
    assert "one answers at 1: set phy.address to that" in found["findings"][0][1]
    assert found["candidates"][0] == "wt32_eth01" and found["next"].endswith("barenet doctor --board wt32_eth01")


def test_a_board_file_that_cannot_work(board):
    config = json.loads((board.fs / "board.json").read_text())
    config["mdc"] = 18
    (board.fs / "board.json").write_text(json.dumps(config))
    restart(board)
    assert diagnosis(board)["findings"] == [["the board file cannot work", "GPIO18 is both mdc and mdio"]]


def test_a_board_that_does_not_know_what_it_is(board, few_inputs):
    (board.fs / "board.json").unlink()
    restart(board)
    result = doctor(board)
    assert result.exit_code == 1 and "--board" in result.stderr and "--probe" in result.stderr
    result = doctor(board, "--probe", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["phy"]["address"] == 1 and found["phy"]["type"] == "LAN8720"
    assert (found["ref_clk"], found["mdc"], found["mdio"]) == ("gpio0_in", 23, 18)
    assert {"wt32_eth01", "lan8720_breakout"} <= set(found["candidates"])


def test_a_search_that_finds_nothing(board, few_inputs):
    board.chip(faults={"phy": False})
    result = doctor(board, "--probe")
    assert result.exit_code == FAULT and "no PHY answers with any board's pins" in result.stdout
    assert "gpio17_out" not in result.stderr, "a clock arrives at GPIO0: no other may be driven"


def test_a_board_whose_clock_the_chip_makes_is_found(few_inputs):
    with VirtualBoard(driver="emac", board="olimex_esp32_poe") as other:
        result = doctor(other, "--probe")
        assert result.exit_code == 0 and "address 0, gpio17_out, MDC 23, MDIO 18, GPIO12 power" in result.stdout
        assert "boards that fit: olimex_esp32_poe" in result.stdout


def test_contradictory_options():
    result = CliRunner().invoke(cli.main, ["doctor", "--probe", "--board", "wt32_eth01"])
    assert result.exit_code == 2 and "leave --board out" in result.stderr
