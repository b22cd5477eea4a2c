"""A board in software: this checkout's firmware in a board-sized MicroPython, with a serial port and a real network."""

from host_tools.virtual_board.board import Program, VirtualBoard

__all__ = ["Program", "VirtualBoard"]
