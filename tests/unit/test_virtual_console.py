"""The serial port's dialogue, without a board behind it."""

import pytest

from host_tools.virtual_board.console import Console, continues, statements


class Board:
    """Notes what the console asks for."""

    def __init__(self):
        self.said = b""
        self.asked = []
        self.takes_interrupt = True

    def write(self, data):
        self.said += data

    def run(self, source, interactive):
        self.asked.append(("run", source, interactive))

    def type_ahead(self, data):
        self.asked.append(("stdin", data))

    def interrupt(self):
        self.asked.append(("interrupt",))
        return self.takes_interrupt

    def complete(self, name):
        self.asked.append(("complete", name))

    def soft_reset(self):
        self.asked.append(("soft reset",))


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def console(board):
    console = Console(board)
    console.prompt()
    board.said = b""
    return console


def test_raw_paste_announces_its_window_and_each_window_that_is_free_again(console, board):
    console.feed(b"\x01")
    board.said = b""
    console.feed(b"\x05A\x01")
    assert board.said == b"R\x01\x80\x00\x01"
    console.feed(b"#" * 128)
    assert board.said == b"R\x01\x80\x00\x01\x01"
    console.feed(b"#" * 127 + b"\x04")
    assert board.said == b"R\x01\x80\x00\x01\x01\x04"
    assert board.asked == [("run", b"#" * 255, False)]
    console.ended(b"")
    assert board.said.endswith(b"\x04\x04\x04>")


def test_ctrl_c_cancels_a_raw_paste(console, board):
    console.feed(b"\x01\x05A\x01abc")
    board.said = b""
    console.feed(b"\x03")
    assert board.said == b"\x04\x04KeyboardInterrupt: \r\n\x04>" and board.asked == []


def test_an_unknown_raw_command_is_refused(console, board):
    console.feed(b"\x01")
    board.said = b""
    console.feed(b"\x05Z\x01")
    assert board.said == b"R\x00>"


def test_the_raw_repl_takes_every_byte_but_its_commands(console, board):
    console.feed(b"\x01dropped\x03print('\xc3\xa9\\x00')\r\n\x04")
    assert board.asked == [("run", b"print('\xc3\xa9\\x00')\r\n", False)]
    assert board.said.endswith(b"raw REPL; CTRL-B to exit\r\n>OK")


def test_an_empty_raw_program_is_a_soft_reset(console, board):
    console.feed(b"\x01\x04")
    assert board.asked == [("soft reset",)] and board.said.endswith(b">OK\r\n")
    board.said = b""
    console.prompt()
    assert board.said == b"raw REPL; CTRL-B to exit\r\n>"


def test_bytes_behind_a_program_are_its_input_and_ctrl_c_is_its_interrupt(console, board):
    console.feed(b"f()\rab\x03cd")
    assert board.asked == [("run", b"f()", True), ("stdin", b"ab"), ("interrupt",), ("stdin", b"cd")]


def test_ctrl_c_is_data_for_a_program_that_wants_it(console, board):
    board.takes_interrupt = False
    console.feed(b"f()\r\x03\x03b")
    assert board.asked[1:] == [("interrupt",), ("stdin", b"\x03"), ("interrupt",), ("stdin", b"\x03b")]


UNFINISHED = ["if x:", "for i in x:", "@wraps", "async def f():", "(1,", "'''a", 'x = """', "a = \\", "d = {'(':"]
FINISHED = ["", "x", "iffy", "'('", "'a", "f(1)", "if x: y\n", "while x:\n  y\n", "'\\'('", "''", "x = []"]


@pytest.mark.parametrize("source", UNFINISHED)
def test_unfinished_statements_continue(source):
    assert continues(source.encode())


@pytest.mark.parametrize("source", FINISHED)
def test_finished_statements_do_not_continue(source):
    assert not continues(source.encode())


def test_a_paste_is_cut_where_a_value_is_to_be_shown():
    assert statements(b"a = 1\rb = 2\ra\rc = 3\r") == [
        (b"a = 1\nb = 2\n", False),
        (b"\\\n\\\na\n", True),
        (b"\n\n\nc = 3\n", False),
    ]


def test_statements_on_one_line_stay_together():
    assert statements(b"a = 1; a; b = 2\r") == [(b"a = 1; a; b = 2\n", False)]
    assert statements(b"a; b\r") == [(b"a; b\n", True)]


def test_a_paste_that_does_not_parse_goes_to_the_board_whole():
    assert statements(b"a = = 1\rb\r") == [(b"a = = 1\nb\n", False)]
    assert statements(b"") == [(b"", False)]
