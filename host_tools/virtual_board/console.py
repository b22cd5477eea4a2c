"""What a board says on its serial port: the friendly REPL, the raw REPL and raw paste mode.

A state machine fed with bytes; it does no I/O. It follows shared/runtime/pyexec.c and shared/readline/readline.c of
MicroPython wherever a program or a person on the PC could tell the difference.
"""

from __future__ import annotations

import ast
import os
import re
from typing import Protocol

CTRL_A, CTRL_B, CTRL_C, CTRL_D, CTRL_E = 1, 2, 3, 4, 5
_BACKSPACE, _TAB, _ENTER, _ESC, _DELETE = 8, 9, 13, 27, 127

_PASTE_WINDOW = 128  # what boards announce
_HISTORY = 50
_INDENT = b"    "
_COMPOUND = re.compile(rb"@|(if|while|for|try|with|def|class|async)(?![0-9A-Za-z_])")
_KEYS = {b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"[H": "home", b"[F": "end", b"[3~": "delete"}
_KEYS |= dict.fromkeys((b"OH", b"[1~", b"[7~"), "home") | dict.fromkeys((b"OF", b"[4~", b"[8~"), "end")
_EMACS = {CTRL_A: "home", CTRL_B: "left", CTRL_D: "delete", CTRL_E: "end", 6: "right", 14: "down", 16: "up"}


class Board(Protocol):
    """What the console asks of the board behind it."""

    def write(self, data: bytes) -> None:
        """Sends bytes out of the serial port."""

    def run(self, source: bytes, interactive: bool) -> None:
        """Starts a program; `Console.ended` is called when it has ended."""

    def type_ahead(self, data: bytes) -> None:
        """Takes bytes that arrive while a program runs: its stdin."""

    def interrupt(self) -> bool:
        """Raises KeyboardInterrupt in the running program; False when the program has switched that off."""

    def complete(self, name: bytes) -> None:
        """Asks for the attributes of `name` (empty: the globals); `Console.completed` is called with them."""

    def soft_reset(self) -> None:
        """Starts a fresh interpreter; `Console.prompt` is called when it has booted."""


class Console:
    """The dialogue on the serial port.

    Attributes:
        banner: first line of the friendly REPL, without line end.
        raw: True in the raw REPL; survives a soft reset, as on a board.
        busy: True while a program (or the boot) has the port.
    """

    def __init__(self, board: Board):
        self.banner = ""
        self.raw = False
        self.busy = True
        self._board = board
        self._write = board.write
        self._history: list[bytes] = []
        self._rest: list[tuple[bytes, bool]] = []  # what still has to run of a paste
        self._start_line()

    def feed(self, data: bytes) -> None:
        """Takes bytes that arrived at the serial port."""
        for i, byte in enumerate(data):
            if self.busy:
                self._to_program(data[i:])
                return
            self._read(byte)

    def prompt(self) -> None:
        """The board has booted: shows the banner of the mode that the port is in."""
        self.busy = False
        self._rest.clear()
        if self.raw:
            self._raw_banner()
        else:
            self._friendly_banner()

    def ended(self, error: bytes) -> None:
        """The program given to `Board.run` has ended, its output is out; `error` is its exception's text, or empty."""
        self.busy = False
        if self.raw:
            self._write(b"\x04" + error + b"\x04>")
            self._expect(self._raw_byte)
            return
        self._write(error)
        if error:
            self._rest.clear()
        if self._rest:
            self._run(*self._rest.pop(0))
        else:
            self._friendly_prompt()

    def exited(self) -> None:
        """The program given to `Board.run` has ended by SystemExit; the board resets."""
        if self.raw:
            self._write(b"\x04\x04")
        self.busy = True

    def _to_program(self, data: bytes) -> None:
        first, *others = data.split(b"\x03")
        if first:
            self._board.type_ahead(first)
        for other in others:
            if not self._board.interrupt():
                other = b"\x03" + other
            if other:
                self._board.type_ahead(other)

    def _run(self, source: bytes, interactive: bool) -> None:
        self.busy = True
        self._board.run(source, interactive)

    def _soft_reset(self) -> None:
        self.busy = True
        self._write(b"\r\n")
        self._board.soft_reset()

    def _expect(self, read) -> None:
        self._read = read
        self._source = bytearray()

    # The raw REPL

    def _raw_banner(self) -> None:
        self.raw = True
        self._write(b"raw REPL; CTRL-B to exit\r\n>")
        self._expect(self._raw_byte)

    def _raw_byte(self, byte: int) -> None:
        source = self._source
        if byte == CTRL_A and len(source) == 2 and source[0] == CTRL_E:
            self._raw_command(source[1:])
        elif byte == CTRL_A:
            self._raw_banner()
        elif byte == CTRL_B:
            self._write(b"\r\n")
            self._friendly_banner()
        elif byte == CTRL_C:
            source.clear()
        elif byte != CTRL_D:
            source.append(byte)
        elif source:
            self._write(b"OK")
            self._run(bytes(source), False)
        else:
            self._write(b"OK")
            self._soft_reset()

    def _raw_command(self, command: bytes) -> None:
        if command != b"A":
            self._write(b"R\x00>")
            self._expect(self._raw_byte)
            return
        self._write(b"R\x01" + _PASTE_WINDOW.to_bytes(2, "little") + b"\x01")
        self._expect(self._raw_paste_byte)

    def _raw_paste_byte(self, byte: int) -> None:
        source = self._source
        if byte == CTRL_C:
            self._write(b"\x04")
            self.ended(b"KeyboardInterrupt: \r\n")
        elif byte == CTRL_D:
            self._write(b"\x04")
            self._run(bytes(source), False)
        else:
            source.append(byte)
            if len(source) % _PASTE_WINDOW == 0:
                self._write(b"\x01")

    # The friendly REPL

    def _friendly_banner(self) -> None:
        self.raw = False
        self._write(self.banner.encode() + b'\r\nType "help()" for more information.\r\n')
        self._friendly_prompt()

    def _friendly_prompt(self) -> None:
        self._write(b">>> ")
        self._start_line()

    def _start_line(self) -> None:
        self._expect(self._line_byte)
        self._indenting = True
        self._next_line()

    def _next_line(self) -> None:
        self._start = self._cursor = len(self._source)
        self._escape = b""
        self._recalled = -1
        self._just_indented = False

    def _line_byte(self, byte: int) -> None:
        just_indented, self._just_indented = self._just_indented, False
        line = self._source
        if self._escape:
            self._escape_byte(byte)
        elif CTRL_A <= byte <= CTRL_E and len(line) == self._start:
            self._control(byte)
        elif byte == CTRL_C:
            self._write(b"\r\n")
            self._friendly_prompt()
        elif byte == _ENTER:
            self._write(b"\r\n")
            self._remember(bytes(line[self._start :]))
            self._enter()
        elif byte == _ESC:
            self._escape = b"\x1b"
        elif byte in (_BACKSPACE, _DELETE):
            before = line[self._start : self._cursor]
            self._erase(4 if len(before) >= 4 and not before.strip(b" ") else 1)
        elif byte in (_TAB, 32) and just_indented:
            # A paste that brings its own indentation: take ours back, and make no more.
            self._indenting = False
            if byte == 32:
                self._erase(3)
        elif byte == _TAB:
            self._tab()
        elif byte in _EMACS:
            self._key(_EMACS[byte])
        elif byte == 11:  # Ctrl-K
            self._redraw(self._cursor, line[: self._cursor], self._cursor)
        elif byte == 21:  # Ctrl-U
            self._redraw(self._start, line[: self._start] + line[self._cursor :], self._start)
        elif 32 <= byte < 127:
            self._insert(bytes([byte]))

    def _control(self, byte: int) -> None:
        if self._start:
            if byte == CTRL_C:
                self._write(b"\r\n")
                self._friendly_prompt()
            elif byte == CTRL_D:
                self._run(bytes(self._source), True)
        elif byte == CTRL_A:
            self._write(b"\r\n")
            self._raw_banner()
        elif byte == CTRL_B:
            self._write(b"\r\n")
            self._friendly_banner()
        elif byte == CTRL_C:
            self._write(b"\r\n")
            self._friendly_prompt()
        elif byte == CTRL_D:
            self._soft_reset()
        else:
            self._write(b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== ")
            self._expect(self._paste_byte)

    def _enter(self) -> None:
        if not self._source:
            self._friendly_prompt()
        elif not continues(self._source):
            self._run(bytes(self._source), True)
        else:
            self._source += b"\n"
            self._next_line()
            self._write(b"... ")
            self._auto_indent()

    def _auto_indent(self) -> None:
        lines = self._source.split(b"\n")[:-1]
        if not self._indenting or (len(lines) > 2 and not (lines[-1] + lines[-2]).strip(b" ")):
            return
        last = lines[-1]
        depth = (len(last) - len(last.lstrip(b" "))) // 4 + last.endswith(b":")
        if depth:
            self._insert(_INDENT * depth)
            self._just_indented = True

    def _remember(self, line: bytes) -> None:
        if line and line != (self._history[0] if self._history else None):
            self._history = [line] + self._history[: _HISTORY - 1]

    def _escape_byte(self, byte: int) -> None:
        self._escape += bytes([byte])
        sequence = self._escape[1:]
        if sequence in (b"[", b"O") or (sequence[:1] == b"[" and chr(byte) in "0123456789;" and len(sequence) < 8):
            return
        self._escape = b""
        if sequence in _KEYS:
            self._key(_KEYS[sequence])

    def _key(self, key: str) -> None:
        line, cursor = self._source, self._cursor
        if key in ("up", "down"):
            recalled = self._recalled + (1 if key == "up" else -1)
            if -1 <= recalled < len(self._history):
                self._recalled = recalled
                text = self._history[recalled] if recalled >= 0 else b""
                self._redraw(self._start, line[: self._start] + text, self._start + len(text))
        elif key == "delete":
            self._redraw(cursor, line[:cursor] + line[cursor + 1 :], cursor)
        elif key == "left":
            self._move(max(cursor - 1, self._start))
        elif key == "right":
            self._move(min(cursor + 1, len(line)))
        else:
            self._move(self._start if key == "home" else len(line))

    def _insert(self, text: bytes) -> None:
        line, cursor = self._source, self._cursor
        self._redraw(cursor, line[:cursor] + text + line[cursor:], cursor + len(text))

    def _erase(self, count: int) -> None:
        start = max(self._cursor - count, self._start)
        if start < self._cursor:
            self._redraw(start, self._source[:start] + self._source[self._cursor :], start)

    def _move(self, cursor: int) -> None:
        if cursor < self._cursor:
            self._write(b"\x1b[%dD" % (self._cursor - cursor) if self._cursor - cursor > 1 else b"\b")
        else:
            self._write(bytes(self._source[self._cursor : cursor]))
        self._cursor = cursor

    def _redraw(self, start: int, line: bytes, cursor: int) -> None:
        """Replaces the line, which differs from the old one from `start` on, and puts the cursor."""
        if start < self._cursor:
            self._move(start)
        shorter = len(line) < len(self._source)
        self._source = bytearray(line)
        self._write((b"\x1b[K" if shorter else b"") + bytes(line[start:]))
        self._cursor = len(line)
        if cursor < self._cursor:
            self._move(cursor)

    def _tab(self) -> None:
        before = bytes(self._source[: self._cursor])
        if before[-1:].isspace():
            self._insert(_INDENT)
            return
        name = re.search(rb"[A-Za-z0-9_.]*$", before[self._start :])[0]
        self._stem = name.rpartition(b".")[2]
        self.busy = True
        self._board.complete(name.rpartition(b".")[0])

    def completed(self, names: list[str]) -> None:
        """The answer to `Board.complete`: inserts what is certain, lists the names when there are several."""
        self.busy = False
        stem = self._stem.decode()
        names = sorted(name for name in names if name.startswith(stem) and (stem or not name.startswith("_")))
        more = os.path.commonprefix(names)[len(stem) :].encode()
        if more:
            self._insert(more)
        elif len(names) > 1:
            rows = ["".join(f"{name:16}" for name in names[i : i + 4]).rstrip() for i in range(0, len(names), 4)]
            self._write(("\r\n" + "\r\n".join(rows) + "\r\n").encode())
            self._write((b"... " if self._start else b">>> ") + bytes(self._source[self._start :]))
            cursor, self._cursor = self._cursor, len(self._source)
            if cursor < self._cursor:
                self._move(cursor)

    def _paste_byte(self, byte: int) -> None:
        if byte == CTRL_C:
            self._write(b"\r\n")
            self._friendly_prompt()
        elif byte == CTRL_D:
            self._write(b"\r\n")
            self._rest = statements(bytes(self._source))
            self._run(*self._rest.pop(0))
        else:
            self._source.append(byte)
            self._write(b"\r\n=== " if byte == _ENTER else bytes([byte]))


def continues(source: bytes) -> bool:
    """Tells whether a statement needs another line before it can run (py/repl.c, mp_repl_continue_with_input)."""
    depth = 0
    quote = b""
    i = 0
    while i < len(source):
        here = source[i : i + 1]
        if here in (b"'", b'"'):
            if quote in (b"", 3 * here) and source[i : i + 3] == 3 * here:
                quote = b"" if quote else 3 * here
                i += 2
            elif quote in (b"", here):
                quote = b"" if quote else here
        elif quote:
            if here == b"\\" and source[i + 1 : i + 2] in (b"'", b'"', b"\\"):
                i += 1
        elif here in b"([{":
            depth += 1
        elif here in b")]}":
            depth -= 1
        i += 1
    if len(quote) == 3 or (depth > 0 and not quote) or source.endswith(b"\\"):
        return True
    return bool(_COMPOUND.match(source)) and not source.endswith(b"\n")


def statements(source: bytes) -> list[tuple[bytes, bool]]:
    """Cuts a paste into (source, interactive) pieces, so that an expression at its top level shows its value.

    MicroPython's compile() can do that for one statement at a time only. Line numbers are kept. What CPython's parser
    does not accept stays whole, for the board to refuse.
    """
    source = source.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return [(source, False)]
    lines = source.split(b"\n")
    pieces: list[tuple[int, int, bool]] = []
    for node in body:
        shown = isinstance(node, ast.Expr)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if pieces and (first <= pieces[-1][1] or not (shown or pieces[-1][2])):
            pieces[-1] = (pieces[-1][0], node.end_lineno, pieces[-1][2] and first <= pieces[-1][1])
        else:
            pieces.append((first, node.end_lineno, shown))
    # One statement may follow line continuations, but no empty line.
    return [
        ((b"\\\n" if shown else b"\n") * (first - 1) + b"\n".join(lines[first - 1 : last]) + b"\n", shown)
        for first, last, shown in pieces
    ] or [(b"", False)]
