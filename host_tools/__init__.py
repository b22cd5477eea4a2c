"""The PC side of barenet: flash, deploy, talk to and simulate a board."""

from pathlib import Path

__version__ = "0.1.0"

# The checkout that this package belongs to; firmware/, boards/ and .cache/ lie there.
ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
