"""The tests of the pruning core share `cases.py` and `oracles.py`, one folder up."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
