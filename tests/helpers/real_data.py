"""Path of the real survey data, for the tests marked `real`."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("DEEPFITS_REAL_DATA", ROOT.parent / "shared" / "data"))
