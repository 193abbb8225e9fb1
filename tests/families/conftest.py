"""Makes this folder's tables of configs and models importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
