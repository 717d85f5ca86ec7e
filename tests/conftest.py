"""Settings that must be there before PyTorch is loaded: few threads, that wait asleep."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
