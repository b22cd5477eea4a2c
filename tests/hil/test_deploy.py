"""`barenet deploy` and `barenet exec` on a board, through its serial port."""

import hashlib
import json
import time

import pytest
from click.testing import CliRunner

from host_tools import cli, deploy
from host_tools.connection import Connection, connect
from host_tools.errors import BarenetError
from host_tools.virtual_board import VirtualBoard


@pytest.fixture(scope="module")
def board():
    with VirtualBoard() as board:
        yield board


def barenet(board, *arguments, **options):
    return CliRunner().invoke(cli.main, [*arguments, "--port", board.serial], **options)


def deployed(board, *arguments):
    result = barenet(board, "deploy", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def first(board):
    """The result of the first deploy; every test after it starts from a board that is up to date."""
    return deployed(board)


def test_a_new_board_gets_every_module_compiled_for_its_interpreter(board, first):
    names = {path.relative_to(board.fs).as_posix() for path in board.fs.rglob("*.mpy")}
    assert names == {name.removesuffix(".py") + ".mpy" for name in deploy.sources() if name not in deploy.STARTERS}
    assert names <= set(first["copied"]) and first["removed"] == []
    assert (board.fs / "main.py").read_bytes() == deploy.sources()["main.py"]


def test_the_board_runs_what_was_deployed_and_its_network_is_up(board, first):
    result = barenet(board, "exec", "import barenet; print(barenet.__file__, lan.isconnected(), lan.ifconfig()[0])")
    assert result.stdout.split() == ["barenet/__init__.mpy", "True", "10.77.0.2"], result.stderr


def test_a_second_deploy_copies_nothing_and_keeps_the_board_file(board, first):
    before = (board.fs / "board.json").read_bytes()
    result = deployed(board)
    assert result["copied"] == [] and result["removed"] == [] and result["unchanged"] == len(deploy.sources()) + 1
    assert (board.fs / "board.json").read_bytes() == before


def test_a_module_that_was_changed_or_lost_on_the_board_is_copied_again(board, first):
    good = {path: path.read_bytes() for path in (board.fs / "barenet" / "ip.mpy", board.fs / "barenet" / "arp.mpy")}
    changed, lost = good
    changed.write_bytes(b"broken")
    lost.unlink()
    assert sorted(deployed(board)["copied"]) == ["barenet/arp.mpy", "barenet/ip.mpy"]
    assert {path: path.read_bytes() for path in good} == good


def test_stale_modules_go_and_files_of_the_user_stay(board, first):
    (board.fs / "barenet" / "ip.py").write_text("raise SystemExit")
    (board.fs / "mine.py").write_text("x = 1\n")
    assert deployed(board)["removed"] == ["barenet/ip.py"]
    assert (board.fs / "mine.py").read_text() == "x = 1\n"


def test_sources_and_back(board, first):
    compiled = len(list(board.fs.rglob("*.mpy")))
    result = deployed(board, "--source")
    viper = {path.name for path in board.fs.rglob("*.mpy")}
    assert viper == {"fast.mpy", "fast_icmp.mpy", "fast_udp.mpy", "tap.mpy"} and len(result["removed"]) == compiled - len(viper)
    assert barenet(board, "exec", "import barenet; print(barenet.__file__)").stdout == "barenet/__init__.py\n"
    assert len(deployed(board)["removed"]) == compiled - len(viper)


def test_a_main_of_the_user_stays_and_is_mentioned(board, first):
    main = board.fs / "main.py"
    ours = main.read_bytes()
    main.write_text("print('my own program')\n")
    try:
        result = barenet(board, "deploy")
        assert "main.py on the board is not barenet's and stays" in result.stderr
        assert "my own program" in result.stdout
        assert main.read_text() == "print('my own program')\n"
    finally:
        main.write_bytes(ours)


def test_the_address_changes_only_when_asked_for(board, first):
    before = json.loads((board.fs / "board.json").read_text())
    try:
        deployed(board, "--ip", "10.77.0.9/24", "--gw", "10.77.0.1")
        now = json.loads((board.fs / "board.json").read_text())
        assert now == before | {"network": {"ip": "10.77.0.9/24", "gw": "10.77.0.1"}}
        deployed(board)
        assert json.loads((board.fs / "board.json").read_text()) == now
        assert board.run(["ping", "-c", "1", "-W", "5", "10.77.0.9"], capture_output=True).returncode == 0
    finally:
        network = before["network"]
        deployed(board, "--ip", network["ip"], "--gw", network["gw"], "--dns", network["dns"])
    assert json.loads((board.fs / "board.json").read_text()) == before


def test_a_board_file_brings_its_pins_and_leaves_address_and_driver(board, first):
    before = json.loads((board.fs / "board.json").read_text())
    try:
        deployed(board, "--board", "wt32_eth01")
        now = json.loads((board.fs / "board.json").read_text())
        assert (now["board"], now["mdc"], now["ref_clk"]) == ("wt32_eth01", 23, "gpio0_in")
        assert (now["network"], now["driver"]) == (before["network"], before["driver"])
    finally:
        (board.fs / "board.json").write_text(json.dumps(before))


def test_a_deploy_that_breaks_off_says_so_and_the_next_one_repairs_it(board, first, monkeypatch):
    for path in board.fs.rglob("*.mpy"):
        path.write_bytes(b"old")
    run, sent = Connection.run, []

    def lose_the_board(self, code, *arguments, **options):
        if code.startswith("w(d("):
            sent.append(code)
            if len(sent) > 5:
                raise BarenetError("/dev/ttyUSB0 is gone; is the board still plugged in?")
        return run(self, code, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "run", lose_the_board)
        result = barenet(board, "deploy")
    assert result.exit_code == 1 and "mixture of old and new files: deploy again" in result.stderr
    deployed(board)
    with connect(board.serial) as connection:
        present = deploy.list_files(connection)
    wanted = deploy.compile_all(deploy.sources(), "x86")
    assert all(present[path] == hashlib.sha256(content).hexdigest() for path, content in wanted.items())


def test_exec_runs_code_files_and_standard_input(board, first, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("for i in range(3):\n    print(i)\n")
    assert barenet(board, "exec", "print(6 * 7)").stdout == "42\n"
    assert barenet(board, "exec", str(program)).stdout == "0\n1\n2\n"
    assert barenet(board, "exec", "-", input="print('grüße')").stdout == "grüße\n"


def test_exec_reports_an_exception_on_stderr_and_in_the_exit_code(board, first):
    result = barenet(board, "exec", "print('before'); 1/0")
    assert (result.exit_code, result.stdout) == (1, "before\n")
    assert result.stderr.splitlines()[-1] == "ZeroDivisionError: divide by zero"


def test_exec_does_not_reset_the_board(board, first):
    barenet(board, "exec", "kept = 1")
    assert barenet(board, "exec", "print(kept)").stdout == "1\n"


def test_exec_interrupts_a_silent_program_and_the_board_stays_usable(board, first):
    result = barenet(board, "exec", "--timeout", "0.5", "while True: pass")
    assert result.exit_code == 1 and "printed nothing for 0.5 s" in result.stderr
    assert barenet(board, "exec", "print('alive')").stdout == "alive\n"


def test_exec_no_wait_leaves_the_program_running(board, first):
    barenet(board, "exec", "n = 0")
    counting = "import time\nwhile True:\n    n += 1\n    time.sleep_ms(1)"
    assert barenet(board, "exec", "--no-wait", counting).exit_code == 0
    time.sleep(0.5)  # it runs as soon as it is compiled, and the next exec ends it
    assert int(barenet(board, "exec", "print(n)").stdout) > 0
