"""The virtual board's serial port, as mpremote, other programs and people use it."""

import hashlib
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import serial
from mpremote.transport_serial import SerialTransport

from host_tools import deploy
from host_tools.virtual_board import VirtualBoard

PROMPT = b"\r\n>>> "


@pytest.fixture(scope="module")
def board():
    with VirtualBoard(main=False) as board:
        yield board


@pytest.fixture
def port(board):
    """The port as a terminal program has it, at an empty friendly prompt of a fresh interpreter."""
    with serial.Serial(board.serial, timeout=10) as port:
        port.write(b"\r\x03\x02\x04")
        assert port.read_until(b"soft reboot\r\n").endswith(b"soft reboot\r\n")
        assert port.read_until(PROMPT).endswith(PROMPT)
        yield port


def mpremote(board, *arguments):
    """Runs mpremote's command line on the board; returns its CompletedProcess with bytes as output."""
    command = [sys.executable, "-m", "mpremote", "connect", board.serial, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)


def typed(port, keys, until=PROMPT):
    """Types keys and returns what the port says up to and including `until`."""
    port.write(keys)
    answer = port.read_until(until)
    assert answer.endswith(until), answer
    return answer


def to_prompt(port):
    """Brings the port to an empty prompt and forgets what it said."""
    port.write(b"\r\x03")
    time.sleep(0.2)
    port.reset_input_buffer()


def shown(port, keys):
    """Types one line and returns what it shows between its echo and the next prompt."""
    return typed(port, keys + b"\r").split(b"\r\n", 1)[1].removesuffix(b">>> ")


# mpremote, unmodified


def test_mpremote_exec_and_eval_print_what_the_board_prints(board):
    assert mpremote(board, "exec", "print('one\\ntwo')").stdout == b"one\r\ntwo\r\n"
    assert mpremote(board, "eval", "[1, 'a', None]").stdout.split() == b"[1, 'a', None]".split()


def test_mpremote_run_shows_the_traceback_of_the_program_alone(board, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("def f():\n    return 1 / 0\n\nprint(__name__)\nf()\n")
    done = mpremote(board, "run", program)
    assert done.returncode == 1
    assert done.stdout.replace(b"\r\n", b"\n") == (
        b"__main__\n"
        b"Traceback (most recent call last):\n"
        b'  File "<stdin>", line 5, in <module>\n'
        b'  File "<stdin>", line 2, in f\n'
        b"ZeroDivisionError: divide by zero\n"
    )


def test_mpremote_copies_lists_and_removes_files_in_the_boards_folder(board, tmp_path):
    content = random.Random(1).randbytes(10_000)
    (tmp_path / "data.bin").write_bytes(content)
    assert mpremote(board, "mkdir", "folder").returncode == 0
    assert mpremote(board, "cp", tmp_path / "data.bin", ":folder/data.bin").returncode == 0
    assert (board.fs / "folder/data.bin").read_bytes() == content
    assert mpremote(board, "cp", ":/folder/data.bin", tmp_path / "back.bin").returncode == 0
    assert (tmp_path / "back.bin").read_bytes() == content
    assert b"folder/" in mpremote(board, "ls").stdout
    assert b"data.bin" in mpremote(board, "ls", ":folder").stdout
    assert mpremote(board, "rm", "-r", ":folder").returncode == 0
    assert not (board.fs / "folder").exists()


def test_absolute_paths_stay_in_the_boards_folder(board):
    assert mpremote(board, "exec", "open('/etc-of-the-board', 'w').write('x')").returncode == 0
    assert (board.fs / "etc-of-the-board").read_text() == "x"


def test_removing_everything_does_not_touch_the_checkout_and_a_reset_brings_the_firmware_back(board):
    before = deploy.sources()
    mpremote(board, "rm", "-r", ":/")
    assert deploy.sources() == before
    assert mpremote(board, "soft-reset").returncode == 0
    assert board.exec("import os; print('main.py' in os.listdir('/.firmware'))") == "True\n"


def test_mpremote_soft_reset_forgets_and_resume_remembers(board):
    assert mpremote(board, "exec", "kept = 5").returncode == 0
    assert mpremote(board, "resume", "exec", "print(kept)").stdout == b"5\r\n"
    assert mpremote(board, "soft-reset").returncode == 0
    assert b"NameError" in mpremote(board, "resume", "exec", "print(kept)").stdout


def test_mpremote_mounts_a_folder_of_the_pc(board, tmp_path):
    content = bytes(range(256)) * 8
    (tmp_path / "data.bin").write_bytes(content)
    (tmp_path / "module.py").write_text("name = 'from the PC'")
    code = "import module, hashlib; print(module.name, hashlib.sha256(open('data.bin', 'rb').read()).digest().hex())"
    done = mpremote(board, "mount", tmp_path, "exec", code)
    assert f"from the PC {hashlib.sha256(content).hexdigest()}".encode() in done.stdout


# The raw REPL


@pytest.fixture
def raw(board):
    """mpremote's transport in the raw REPL of a fresh interpreter."""
    transport = SerialTransport(board.serial, timeout=0.1)
    transport.enter_raw_repl()
    yield transport
    transport.exit_raw_repl()
    transport.close()


@pytest.mark.parametrize("paste", [True, False], ids=["raw paste", "plain raw"])
def test_a_program_of_50_kB_arrives_whole(raw, paste):
    raw.use_raw_paste = paste
    line = "#" + "x" * 98 + "\n"
    program = line * 500 + "print(len(__file__), 'end')\n"
    assert raw.exec_raw(program, timeout=20) == (b"7 end\r\n", b"")
    assert raw.use_raw_paste == paste


def test_globals_persist_between_raw_programs(raw):
    raw.exec("a = 1")
    raw.exec("a += 1")
    assert raw.exec("print(a)") == b"2\r\n"


def test_a_syntax_error_in_a_pasted_program_is_reported_and_the_repl_goes_on(raw):
    output, error = raw.exec_raw("a = 1\nb = = 2\n" + "c = 3\n" * 1000)
    assert output == b"" and b'File "<stdin>", line 2\r\nSyntaxError' in error
    assert raw.exec("print('well')") == b"well\r\n"


def test_ctrl_c_ends_a_program_that_never_ends(raw):
    raw.exec_raw_no_follow("print('go')\nwhile True: pass")
    assert raw.read_until(1, b"go\r\n").endswith(b"go\r\n")
    raw.serial.write(b"\x03")
    output, error = raw.follow(timeout=5)
    assert output == b"" and b"KeyboardInterrupt" in error
    assert raw.exec("print('well')") == b"well\r\n"


def test_ctrl_c_sent_right_behind_the_program_is_not_lost(raw):
    for _ in range(20):
        raw.exec_raw_no_follow("while True: pass")
        raw.serial.write(b"\x03")
        assert b"KeyboardInterrupt" in raw.follow(timeout=5)[1]


def test_ctrl_c_does_not_get_lost_in_timer_callbacks(raw):
    raw.exec("import machine\nt = machine.Timer(0, period=1, callback=lambda t: sum(range(200)))")
    for _ in range(20):
        raw.exec_raw_no_follow("while True: pass")
        time.sleep(0.02)
        raw.serial.write(b"\x03")
        assert b"KeyboardInterrupt" in raw.follow(timeout=5)[1]
    raw.exec("t.deinit()")


@pytest.mark.parametrize("driver", ["emac", "tap"])
def test_ctrl_c_goes_where_the_vm_looks(driver):
    """Wherever the interpreter lies: at the chip's addresses id() is not an object's address."""
    with VirtualBoard(driver=driver, main=False) as board:
        assert board.exec("import _signals; print(_signals._slot is _signals._scrap)") == "False\n"


def test_a_program_may_take_ctrl_c_as_data(raw):
    raw.exec("import micropython, sys")
    program = "micropython.kbd_intr(-1)\nprint('go')\nprint(sys.stdin.buffer.read(3))\nmicropython.kbd_intr(3)"
    raw.exec_raw_no_follow(program)
    raw.read_until(1, b"go\r\n")
    raw.serial.write(b"a\x03b")
    assert raw.follow(timeout=5) == (b"b'a\\x03b'\r\n", b"")


def test_stdout_buffer_sends_bytes_unchanged_and_in_order_with_print(raw):
    data = bytes(range(5, 256)) * 40  # 4 is the end of the output
    output = raw.exec("import sys\nprint('a')\nsys.stdout.buffer.write(bytes(range(5, 256)) * 40)\nprint('b')")
    assert output == b"a\r\n" + data + b"b\r\n"


def test_a_locked_heap_is_unlocked_when_the_program_has_ended(raw):
    raw.exec("import micropython; micropython.heap_lock()")
    assert raw.exec("print([1, 2])") == b"[1, 2]\r\n"


def test_a_program_that_exits_resets_the_board(raw):
    raw.exec("a = 1")
    raw.exec_raw_no_follow("import sys; sys.exit()")
    assert raw.read_until(1, b"raw REPL; CTRL-B to exit\r\n").endswith(
        b"\x04\x04MPY: soft reboot\r\nraw REPL; CTRL-B to exit\r\n"
    )
    assert b"NameError" in raw.exec_raw("a")[1]


def test_long_output_waits_for_a_slow_reader(raw):
    raw.exec_raw_no_follow("for i in range(20000): print('%05d 0123456789' % i)")
    output = bytearray()
    while not output.endswith(b"\x04\x04>"):
        chunk = raw.serial.read(3000)
        assert chunk, output[-100:]
        output += chunk
        if len(output) < 30_000:
            time.sleep(0.02)
    raw.serial.write(b"\x01")  # a prompt for the fixture's end
    lines = bytes(output[:-3]).split(b"\r\n")
    assert lines[:-1] == [b"%05d 0123456789" % i for i in range(20000)]


# The friendly REPL


def test_the_banner_and_the_prompt_are_micropythons(port):
    banner = typed(port, b"\x02")
    assert re.fullmatch(
        rb"\r\nMicroPython v[\d.]+ on [\d-]+; barenet virtual board with ESP32-like heap\r\n"
        rb'Type "help\(\)" for more information\.\r\n>>> ',
        banner,
    )


def test_a_value_is_shown_and_kept_in_underscore(port):
    assert shown(port, b"6 * 7") == b"42\r\n"
    assert shown(port, b"_ + 1") == b"43\r\n"
    assert shown(port, b"'text'") == b"'text'\r\n"
    assert shown(port, b"None") == b""


def test_compound_statements_continue_with_indentation(port):
    assert typed(port, b"for i in range(2):\r", b"... " + b" " * 4)
    assert typed(port, b"print(i)\r", b"... " + b" " * 4)
    assert typed(port, b"\x7f\r") == b"\x1b[4D\x1b[K\r\n0\r\n1\r\n>>> "


def test_brackets_strings_and_backslashes_continue_a_statement(port):
    assert typed(port, b"(1 +\r2)\r").endswith(b"... 2)\r\n3\r\n>>> ")
    assert typed(port, b"'''a\rb'''\r").endswith(b"... b'''\r\n'a\\nb'\r\n>>> ")
    assert typed(port, b"1 + \\\r2\r").endswith(b"... 2\r\n3\r\n>>> ")


def test_a_line_can_be_edited(port):
    assert shown(port, b"14\x7f2").startswith(b"12\r\n") or shown(port, b"_") == b"12\r\n"
    assert typed(port, b"23\x1b[D\x1b[D1\r").endswith(b"\r\n123\r\n>>> ")
    assert typed(port, b"34\x01\x1b[3~\x05 + 1\r").endswith(b"\r\n5\r\n>>> ")


def test_the_arrows_recall_earlier_lines(port):
    typed(port, b"1111\r")
    typed(port, b"2222\r")
    assert typed(port, b"\x1b[A\x1b[A\r").endswith(b"\r\n1111\r\n>>> ")
    assert typed(port, b"\x1b[A\x1b[A\x1b[B\r").endswith(b"\r\n1111\r\n>>> ")


def test_tab_completes_names(port):
    typed(port, b"import sys\r")
    assert typed(port, b"sys.byteo\t\r").endswith(b"byteorder\r\n'little'\r\n>>> ")
    answer = typed(port, b"sys.std\t", b">>> sys.std")
    assert answer.split() == [b"sys.std", b"stderr", b"stdin", b"stdout", b">>>", b"sys.std"]
    typed(port, b"\x03")


def test_paste_mode_runs_what_is_pasted_and_shows_values(port):
    typed(port, b"\x05", b"=== ")
    answer = typed(port, b"a = 2\ra\r@property\rdef f():\r    pass\rfor i in range(2):\r    print(i)\r1 / 0\r\x04")
    assert answer.endswith(
        b"\r\n=== \r\n2\r\n0\r\n1\r\n"
        b'Traceback (most recent call last):\r\n  File "<stdin>", line 8, in <module>\r\n'
        b"ZeroDivisionError: divide by zero\r\n>>> "
    )
    typed(port, b"\x05", b"=== ")
    assert typed(port, b"print(1)\x03") == b"print(1)\r\n>>> "


def test_lines_that_come_faster_than_they_run_are_all_run(port):
    lines = b"".join(b"x = %d\r" % i for i in range(200))
    port.write(lines + b"'sum', x\r")
    assert b"('sum', 199)" in port.read_until(b"('sum', 199)\r\n>>> ")


def test_ctrl_c_at_the_prompt_drops_the_line(port):
    assert typed(port, b"nonsense(\x03") == b"nonsense(\r\n>>> "


def test_ctrl_c_interrupts_sleep_and_input(port):
    port.write(b"import time; time.sleep(100)\r")
    time.sleep(0.1)
    assert b"KeyboardInterrupt" in typed(port, b"\x03")
    typed(port, b"input('who? ')\r", b"\r\nwho? ")
    assert b"KeyboardInterrupt" in typed(port, b"\x03")


def test_a_program_reads_its_input_from_the_port(port):
    typed(port, b"name = input('who? ')\r", b"\r\nwho? ")
    typed(port, b"Bob\r")
    assert shown(port, b"name") == b"'Bob'\r\n"
    port.write(b"import sys; sys.stdin.read(3)\r")
    time.sleep(0.1)
    assert typed(port, b"abc").endswith(b"'abc'\r\n>>> ")
    typed(port, b"import select; p = select.poll(); _ = p.register(sys.stdin, select.POLLIN)\r")
    assert shown(port, b"len(p.poll(10))") == b"0\r\n"


def test_timers_run_while_the_repl_waits(port):
    typed(port, b"import machine; n = [0, 0]\r")
    typed(port, b"def count(t): n[t.id] += 1\r\r")
    typed(port, b"a = machine.Timer(0, period=10, callback=count)\r")
    typed(port, b"b = machine.Timer(1, mode=machine.Timer.ONE_SHOT, period=50, callback=count)\r")
    time.sleep(1)
    fast, once = eval(shown(port, b"n"))
    assert 80 <= fast <= 130 and once == 1
    typed(port, b"a.deinit(); n[0] = 0\r")
    time.sleep(0.1)
    assert shown(port, b"n") == b"[0, 1]\r\n"


def test_an_idle_board_takes_no_cpu(board, port):
    supervisor = board.namespace["pid"]
    processes = [supervisor, *map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())]
    assert len(processes) == (3 if board.description["driver"] == "emac" else 2)  # with the model of the chip

    def cpu():
        stats = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")

    before = cpu()
    time.sleep(1)
    assert cpu() - before < 0.1


def test_a_crash_restarts_the_board_and_says_so(port):
    answer = typed(port, b"import ffi; ffi.open('libc.so.6').func('v', 'abort', '')()\r")
    assert b"the board's interpreter ended (signal 6)" in answer
    assert shown(port, b"1") == b"1\r\n"


def test_machine_resets(port):
    assert b"MPY: soft reboot\r\nMicroPython v" in typed(port, b"import machine; machine.soft_reset()\r")
    answer = typed(port, b"import machine; machine.reset()\r")
    assert b"soft reboot" not in answer and b"\r\nMicroPython v" in answer


def test_the_port_survives_many_programs_that_open_and_close_it(board):
    for i in range(20):
        with serial.Serial(board.serial, timeout=5) as port:
            port.write(b"\r\x03%d\r" % (1000 + i))
            assert port.read_until(b"\r\n%d\r\n>>> " % (1000 + i)).endswith(b">>> ")


def test_a_port_that_nobody_reads_does_not_stop_the_board(board):
    with serial.Serial(board.serial, timeout=5) as port:
        to_prompt(port)
        typed(port, b"for i in range(30000): print(i)\r\x7f\r", b"100\r\n")
        time.sleep(2.5)
        to_prompt(port)
        assert shown(port, b"i") == b"29999\r\n"


# Booting


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """A board with its own boot.py and main.py."""
    folder = tmp_path_factory.mktemp("fs")
    (folder / "boot.py").write_text("print('boot')\nbooted = True\n")
    (folder / "main.py").write_text("print('main', booted)\n")
    with VirtualBoard(fs=folder) as board:
        yield board


def test_a_soft_reset_runs_boot_and_main_in_the_friendly_repl_and_boot_alone_in_the_raw_one(own_files):
    with serial.Serial(own_files.serial, timeout=10) as port:
        to_prompt(port)
        answer = typed(port, b"\x04", b"information.\r\n>>> ")
        assert answer.startswith(b"\r\nMPY: soft reboot\r\nboot\r\nmain True\r\nMicroPython v")
        typed(port, b"\x01", b"raw REPL; CTRL-B to exit\r\n>")
        answer = typed(port, b"\x04", b"raw REPL; CTRL-B to exit\r\n>")
        assert answer == b"OK\r\nMPY: soft reboot\r\nboot\r\nraw REPL; CTRL-B to exit\r\n>"
        typed(port, b"\x02")


def test_an_error_in_boot_is_shown_and_main_is_left_out(own_files):
    boot = own_files.fs / "boot.py"
    before = boot.read_text()
    boot.write_text("print('boot')\n1 / 0\n")
    try:
        with serial.Serial(own_files.serial, timeout=10) as port:
            to_prompt(port)
            answer = typed(port, b"\x04", b"information.\r\n>>> ")
    finally:
        boot.write_text(before)
    assert b'boot\r\nTraceback (most recent call last):\r\n  File "boot.py", line 2, in <module>\r\nZero' in answer
    assert b"main" not in answer


def test_ctrl_c_breaks_out_of_a_main_that_never_ends(own_files):
    main = own_files.fs / "main.py"
    before = main.read_text()
    main.write_text("print('endless')\nwhile True: pass\n")
    try:
        with serial.Serial(own_files.serial, timeout=10) as port:
            to_prompt(port)
            typed(port, b"\x04", b"endless\r\n")
            assert b"KeyboardInterrupt" in typed(port, b"\x03", b"information.\r\n>>> ")
    finally:
        main.write_text(before)
