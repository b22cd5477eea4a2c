"""`python3 -m host_tools.virtual_board`: the command `barenet virtual`."""

from host_tools.virtual_board.command import command

command(prog_name="barenet virtual")
