"""Compare plain and asinh normalisation for fits of faint galaxies, with the same budget.

    python benchmarks/normalisation.py STORE --steps 1000

Trains the same networks with both (and with a softer stretch) and compares best fits on held-out objects. The
arguments are those of `benchmarks/training_options.py`.
"""

from __future__ import annotations

import sys

import training_options

if __name__ == "__main__":
    if "--variants" not in sys.argv:
        sys.argv += ["--variants", "plain", "asinh", "asinh, softer"]
    training_options.main()
