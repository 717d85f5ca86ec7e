"""Options of small trainings, what they logged, and a progress that interrupts them."""

import json
import os

from deepfits.survey.store import StoreInfo

INFO = StoreInfo(bands=("g", "r"), size=16, pixel_scale_arcsec=0.2)


OPTIONS = {
    "width": 16, "latent_size": 4, "num_blocks": 2,
    "batch_size": 16, "log_every": 1, "checkpoint_seconds": 1e9, "num_evaluated": 20,
}  # fmt: skip


def losses(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in rows]


class StopAt:
    """A progress that sends a signal to this process at a step."""

    def __init__(self, step, number):
        self.step, self.number, self.count = step, number, 0

    def __call__(self, description, *, total, unit="", done=0):
        self.description, self.count = description, done
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, number=1, note=""):
        self.count += number
        if self.description == "train" and self.count == self.step:
            os.kill(os.getpid(), self.number)
