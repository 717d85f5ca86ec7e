"""Effect of OpenMP's wait policy on this machine, under its current load.

python benchmarks/threads.py
"""

import json
import os
import subprocess
import sys

from deepfits.provenance import provenance

WORK = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
convolution = torch.nn.ConvTranspose2d(64, 32, 4, 2, 1)
images = torch.randn(32, 64, 8, 8)
def work(number):
    for _ in range(number):
        convolution(images).relu().sum().backward()
work(5)
start = time.perf_counter()
work(100)
print((time.perf_counter() - start) * 10)
"""
SETTINGS = {"one": (1, "ACTIVE"), "active": (2, "ACTIVE"), "passive": (2, "PASSIVE")}
ROUNDS = 3


def milliseconds(threads: int, policy: str) -> float:
    """Return the milliseconds of one forward and backward pass, timed in a separate process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": policy}
    command = [sys.executable, "-c", WORK, str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def main() -> None:
    """Compare one thread, two threads that wait actively, and two that wait passively."""
    print("Transposed convolution of 32 images, 64 to 32 channels, 8 to 16 pixels, forward and backward;")
    print(f"milliseconds, median of {ROUNDS} rounds.")
    rounds = [{name: milliseconds(*setting) for name, setting in SETTINGS.items()} for _ in range(ROUNDS)]
    result = {name: sorted(r[name] for r in rounds)[ROUNDS // 2] for name in SETTINGS}
    for name, value in result.items():
        print(f"{name:8s} {value:8.2f}")
    summary = {
        **{f"{name}_ms": round(value, 3) for name, value in result.items()},
        "speedup_passive_vs_active": round(result["active"] / result["passive"], 3),
        "load_average": os.getloadavg()[0],
        "provenance": provenance(),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
