"""Training with two processes that share a batch agrees with training with one."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from deepfits.models.bundle import Model
from deepfits.stages.train import train
from tests.helpers.trainings import OPTIONS, losses

pytest.importorskip("lightning.fabric")


@pytest.mark.slow
def test_two_processes_agree_with_one(store, tmp_path):
    options = OPTIONS | {"reconstruction": 0.2}
    whole = train(store, tmp_path / "one", recipe="tiny", steps=4, options=options, device="cpu")
    out = tmp_path / "two"
    script = tmp_path / "script.py"
    script.write_text(
        "from deepfits.stages.train import train\n"
        f"train({str(store)!r}, {str(out)!r}, recipe='tiny', steps=4, device='cpu', num_devices=2,\n"
        f"      options={options!r})\n"
    )
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *(f"--master-port={port}", str(script)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    for a, b in zip(losses(whole), losses(out), strict=True):
        assert a == pytest.approx(b, rel=1e-3)  # Adam's first steps depend on signs, hence on rounding
    card = json.loads((out / "model.json").read_text())["card"]
    assert card["engine"]["num_processes"] == 2
    latent = torch.randn(20, 4)
    images = [Model.load(m).render(latent).numpy() for m in (whole, out)]
    np.testing.assert_allclose(images[0], images[1], rtol=0.01, atol=0.01 * np.abs(images[0]).max())
