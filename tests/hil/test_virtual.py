"""`barenet virtual` as scripts use it, and what it leaves behind: nothing."""

import ctypes
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import serial

from host_tools import ROOT
from host_tools.errors import BarenetError
from host_tools.virtual_board import VirtualBoard, interpreter
from host_tools.virtual_board.emac_model import memory

COMMAND = [sys.executable, "-m", "host_tools.virtual_board"]


def virtual(*arguments, **options):
    """Runs the command to its end."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descendants(pid):
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        found += [child, *descendants(child)]
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def running(tmp_path):
    """Starts the command, waits for its line, and gives (process, description); temporary folders go to tmp_path."""
    processes = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(os.environ, TMPDIR=str(tmp_path)),
            **options,
        )
        processes.append(process)
        return process, json.loads(process.stdout.readline())

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_one_line_of_json_describes_the_board(running):
    process, board = running()
    assert {name: board[name] for name in ("ip", "netmask", "gw", "dns")} == {
        "ip": "10.77.0.2",
        "netmask": "255.255.255.0",
        "gw": "10.77.0.1",
        "dns": "10.77.0.1",
    }
    assert len(bytes.fromhex(board["mac"].replace(":", ""))) == 6
    assert os.path.exists(board["serial"]) and os.path.isdir(board["fs"])
    assert board["namespace"]["pid"] == process.pid
    assert board["interpreter"]["bits"] == 32 and board["interpreter"]["version"]
    assert board["link"] in ("tap", "veth")


def test_the_board_answers_ping_while_its_repl_waits(running):
    _, board = running("--ip", "192.168.7.9/29", "--gw", "192.168.7.10")
    done = subprocess.run([*board["namespace"]["enter"], "ping", "-c", "3", "-i", "0.2", "-W", "2", "192.168.7.9"])
    assert done.returncode == 0 and board["gw"] == "192.168.7.10"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_board_and_leaves_nothing(running, tmp_path, number):
    process, board = running("--enter", "sleep 1000")
    family = descendants(process.pid)
    assert len(family) >= 2
    process.send_signal(number)
    assert process.wait(10) == 0
    wait_until(lambda: not any(is_running(pid) for pid in family), 1)
    assert not os.path.exists(board["serial"])
    assert list(tmp_path.iterdir()) == []


def test_a_killed_supervisor_takes_its_children_along(running):
    process, _ = running("--enter", "exec sleep 1000")
    family = descendants(process.pid)
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_running(pid) for pid in family))


def test_the_boards_folder_is_kept_when_it_was_named(running, tmp_path):
    folder = tmp_path / "folder"
    process, board = running("--fs", folder, "--ip", "10.1.2.3/24")
    process.terminate()
    process.wait(10)
    assert json.loads((folder / "board.json").read_text())["network"]["ip"] == "10.1.2.3/24"
    _, again = running("--fs", folder)
    assert again["ip"] == "10.1.2.3"


# --run


@pytest.fixture
def program(tmp_path):
    def write(text):
        file = tmp_path / "program.py"
        file.write_text(text)
        return file

    return write


def test_run_passes_arguments_streams_and_the_exit_code(program):
    file = program(
        "import sys\nprint(sys.argv[1:], sys.stdin.readline())\nprint('complaint', file=sys.stderr)\nsys.exit(7)"
    )
    done = virtual("--run", file, "a", "--b", input="typed\n")
    assert done.returncode == 7
    line, rest = done.stdout.split("\n", 1)
    assert json.loads(line)["serial"] is None
    assert rest == "['a', '--b'] typed\n\n"
    assert done.stderr.endswith("complaint\n")


def test_run_keeps_what_boot_and_main_print_off_its_output(program, tmp_path):
    folder = tmp_path / "fs"
    folder.mkdir()
    (folder / "boot.py").write_text("print('boot')")
    (folder / "main.py").write_text("print('main')")
    done = virtual("--fs", folder, "--run", program("print('program')"))
    assert done.stdout.split("\n", 1)[1] == "program\n" and done.stderr == "boot\nmain\n"
    assert virtual("--fs", folder, "--no-main", "--run", program("")).stderr == "boot\n"


def test_run_of_a_program_that_fails_shows_its_traceback(program):
    done = virtual("--no-main", "--run", program("def f():\n    raise ValueError(3)\nf()\n"))
    assert done.returncode == 1
    assert done.stderr.endswith(
        "Traceback (most recent call last):\n"
        '  File "program.py", line 3, in <module>\n'
        '  File "program.py", line 2, in f\n'
        "ValueError: 3\n"
    )


def test_run_ends_with_its_programs_exit_code_of_each_kind(program):
    assert virtual("--no-main", "--run", program("")).returncode == 0
    assert virtual("--no-main", "--run", program("raise SystemExit")).returncode == 0
    assert virtual("--no-main", "--run", program("raise SystemExit('why')")).returncode == 1


def test_sigint_interrupts_a_program_and_it_may_tidy_up(running, program):
    process, _ = running(
        "--no-main", "--run", program("try:\n    print('go')\n    while True: pass\nfinally: print('tidy')\n"),
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stdout.read() == "tidy\n" and "KeyboardInterrupt" in process.stderr.read()
    process.stderr.close()


def test_sigint_ends_a_program_that_ignores_it(running, program):
    source = "print('go')\nwhile True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass\n"
    process, _ = running("--no-main", "--run", program(source))
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


@pytest.mark.parametrize("bits", [32, 64])
def test_the_heap_is_a_boards_heap(program, bits):
    file = program("import gc, sys\ngc.collect()\nprint(gc.mem_free(), sys.maxsize > 1 << 31)")
    done = virtual("--no-main", "--bits", bits, "--heap", "160k", "--run", file)
    free, wide = done.stdout.split("\n")[1].split()
    assert 156_000 < int(free) < 164_000 and (wide == "True") == (bits == 64)


# What it cannot do, it says in one line


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--driver", "none"], "--driver"),
        (["--ip", "10.0.0.1"], "is not an address with its prefix"),
        (["--ip", "10.0.0.300/24"], "is not an address with its prefix"),
        (["--gw", "here"], "is not an IPv4 address"),
        (["--heap", "12"], "is not a size"),
        (["--bits", "16"], "--bits"),
        (["--run", "/no/such/file"], "does not exist"),
        (["--dhcp", "--ip", "10.0.0.2/24"], "leave --ip"),
        (["--tap", "nosuchtap"], "cannot attach to the TAP device nosuchtap"),
        (["--fs", "/proc/none"], "cannot use"),
        (["program.py"], "unexpected argument 'program.py'"),
    ],
)
def test_a_wrong_command_line_gets_one_clear_line(arguments, complaint):
    done = virtual(*arguments)
    assert done.returncode != 0 and done.stdout == ""
    assert complaint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_damaged_board_file_is_named(tmp_path):
    (tmp_path / "board.json").write_text("{")
    done = virtual("--fs", tmp_path)
    assert done.returncode == 1 and str(tmp_path / "board.json") in done.stderr.splitlines()[-1]


def test_a_board_that_cannot_boot_says_why(tmp_path):
    (tmp_path / "boot.py").write_text("import ffi; ffi.open('libc.so.6').func('v', 'abort', '')()")
    done = virtual("--fs", tmp_path)
    assert done.returncode == 1 and "does not boot" in done.stderr.splitlines()[-1]


# --tap


def test_tap_attaches_to_a_device_that_exists():
    """A namespace of our own stands for the machine: a TAP device is made there, then the board attaches to it."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened here")
    script = (
        "ip link set lo up && ip tuntap add dev cable0 mode tap && ip addr add 10.5.0.1/24 dev cable0 && "
        f"ip link set cable0 up && exec {' '.join(COMMAND)} --tap cable0 --ip 10.5.0.2/24 --enter "
        "'sleep 1; ping -c 2 -i 0.2 -W 2 10.5.0.2 >&2; kill $PPID'"
    )
    unshare = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-r", "-n"]
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=60)
    board = json.loads(done.stdout)
    assert board["namespace"] is None and board["link"] == "tap" and board["ip"] == "10.5.0.2"
    assert " 0% packet loss" in done.stderr


# The object for tests


def test_a_program_runs_in_place_of_the_repl_and_the_repl_comes_back():
    with VirtualBoard(main=False) as board:
        with board.program("import sys\nprint(sys.argv)\nsys.exit(3)", "a") as program:
            assert program.output() == "['program.py', 'a']\n" and program.exit_code == 3
        with board.program("print('go')\nwhile True: pass") as program:
            assert program.stdout.readline() == "go\n"
            program.interrupt()
            assert "KeyboardInterrupt" in program.output() and program.exit_code == 1
        with board.program("while True: pass"):
            pass
        assert board.exec("print(1)") == "1\n"


def test_main_runs_again_after_a_program_that_was_started_from_the_raw_repl():
    with VirtualBoard(driver="tap") as board:
        with serial.Serial(board.serial, timeout=5) as port:
            port.write(b"\x01")
            assert port.read_until(b"CTRL-B to exit\r\n>").endswith(b">")
            with board.program("print(1)") as program:
                assert program.output() == "1\n"
        assert board.addresses["ip"] == "10.77.0.2"
        assert board.exec("print('lan' in globals())") == "True\n"


def test_servers_can_be_started_before_the_board_boots():
    seen = []

    def before(board):
        seen.append(board.run(["ip", "-4", "addr", "show", "tap0"], capture_output=True, text=True).stdout)

    with VirtualBoard(network={"ip": "10.8.0.2/24", "gw": "10.8.0.7"}, before=before) as board:
        assert "10.8.0.7/24" in seen[0]
        assert board.addresses["ip"] == "10.8.0.2"
        assert board.description["ip"] == "10.8.0.2"


def test_a_board_that_cannot_be_made_raises_with_the_reason():
    with pytest.raises(BarenetError, match="nosuchtap"), VirtualBoard(tap="nosuchtap"):
        pass


# Where the model of the chip cannot run


def forbid_personality():
    """For preexec_fn: from now on personality(2) fails in this process and its children, as in strict containers."""
    number = {"x86_64": 135, "aarch64": 92}[platform.machine()]
    # Classic BPF over struct seccomp_data: load the call's number; EPERM when it is that one, else go on.
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(set_no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filter_mode, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


PERSONALITY = "the model of the chip cannot run here: this kernel or container forbids personality(ADDR_NO_RANDOMIZE)"


def test_without_the_model_the_board_gets_the_tap_driver_and_says_so(program):
    done = virtual("--run", program("print(nic.status('driver')['driver'])"), preexec_fn=forbid_personality)
    line, printed = done.stdout.split("\n", 1)
    assert json.loads(line)["driver"] == "tap" and printed == "tap\n"
    said = done.stderr.splitlines()[0]
    assert PERSONALITY in said and said.endswith("using --driver tap") and "Traceback" not in done.stderr


@pytest.mark.parametrize("named", [["--driver", "emac"], ["--board", "wt32_eth01"]])
def test_asked_for_by_name_a_model_that_cannot_run_is_an_error(named):
    done = virtual(*named, preexec_fn=forbid_personality)
    assert done.returncode == 1 and done.stdout == ""
    assert PERSONALITY in done.stderr and done.stderr.endswith("use --driver tap\n")
    assert len(done.stderr.splitlines()) == 1


def test_the_object_for_tests_passes_the_notice_on():
    code = "from host_tools.virtual_board import VirtualBoard as V\nwith V(main=False) as b: print(b.description['driver'])"
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 60, "preexec_fn": forbid_personality}
    done = subprocess.run([sys.executable, "-c", code], **options)
    assert done.stdout == "tap\n" and done.stderr.startswith(f"barenet: {PERSONALITY}")
    assert len(done.stderr.splitlines()) == 1


def test_memory_that_cannot_be_written_from_outside_is_a_reason_too(monkeypatch):
    def refused(*_arguments, **_options):
        raise PermissionError

    monkeypatch.setattr(memory, "open", refused, raising=False)
    with pytest.raises(BarenetError, match="forbids writing to another process's /proc/PID/mem"):
        memory.layout(interpreter.find(32).command, 200 * 1024)


@pytest.mark.parametrize(
    "options, complaint", [(["--heap", "512k"], "does not fit into the chip's RAM"), (["--bits", "64"], "")]
)
def test_a_board_that_is_no_esp32_gets_the_tap_driver(program, options, complaint):
    done = virtual(*options, "--no-main", "--run", program(""))
    assert json.loads(done.stdout)["driver"] == "tap" and complaint in done.stderr
    assert bool(done.stderr) == bool(complaint)


def test_a_rule_of_the_chip_that_is_broken_fails_the_board_at_its_end(program):
    done = virtual("--run", program("import machine; machine.mem32[0x3FF6A020] = 1"))
    assert done.returncode == 3
    assert "barenet: the firmware broke a rule of the chip: read-only: VERSION = 0x00000001" in done.stderr
    with pytest.raises(BarenetError, match="read-only: VERSION"), VirtualBoard() as board:
        board.exec("import machine; machine.mem32[0x3FF6A020] = 1")
