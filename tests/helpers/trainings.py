"""Options, losses and gradients of small trainings, and a progress object that interrupts them."""

import json
import os

import pytest
import torch

from deepfits.survey.store import StoreInfo

INFO = StoreInfo(bands=("g", "r"), size=16, pixel_scale_arcsec=0.2)
OPTIONS = {
    "width": 16, "latent_size": 4, "num_blocks": 2,
    "batch_size": 16, "log_every": 1, "checkpoint_seconds": 1e9, "num_evaluated": 20,
}  # fmt: skip


def losses(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in rows]


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def assert_shared_pass_equals_two_passes(make, batch, *, error=2e-5):
    """Compare steps with one and with two passes of the discriminator, which is not updated between the two.

    `make` takes whether the pass is shared and returns a trainer. `error` is the tolerance of gradients,
    relative to the largest element of each tensor.
    """
    ours, theirs = make(True), make(False)
    still = theirs.networks["discriminator"]
    theirs.optimisers["discriminator"].step = lambda: still.eval()  # update neither its weights nor its norm
    found, expected = ours.step(batch, 7), theirs.step(batch, 7)
    assert set(found) == set(expected)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=error), name
    for name, network in theirs.networks.items():
        mine = gradients(ours.networks[name])
        for key, gradient in gradients(network).items():
            size = float(gradient.abs().max())
            assert size > 0
            torch.testing.assert_close(
                mine[key], gradient, rtol=0, atol=error * size, msg=lambda m, k=key: f"{k}: {m}"
            )


class StopAt:
    """A progress object that sends a signal to this process at a given step.

    `counts` has what each task has done.
    """

    def __init__(self, step, number):
        self.step, self.number, self.counts = step, number, {}

    def __call__(self, description, *, total, unit="", done=0):
        self.description, self.counts[description] = description, done
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, number=1, note=""):
        self.counts[self.description] += number
        if self.description == "train" and self.counts["train"] == self.step:
            os.kill(os.getpid(), self.number)
