"""Plain or asinh: the normalisation that serves fits of faint galaxies better, on the same budget.

    python benchmarks/normalisation.py STORE --steps 1000

Trains the same networks with both (and with a softer stretch) and compares best fits on held-out objects, as
`benchmarks/training_options.py`, whose arguments it takes.
"""

from __future__ import annotations

import sys

import training_options

if __name__ == "__main__":
    if "--variants" not in sys.argv:
        sys.argv += ["--variants", "plain", "asinh", "asinh, softer"]
    training_options.main()
