"""`python3 -m host_tools.virtual_board`: the command `barenet virtual`."""

import sys

from host_tools.errors import BarenetError
from host_tools.virtual_board.command import command

try:
    command(prog_name="barenet virtual")
except BarenetError as error:
    print(f"barenet: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
