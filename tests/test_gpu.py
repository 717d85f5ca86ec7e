"""Everything that waits for a GPU: rehearsed in miniature on a processor, and the tests that need one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deepfits.fitting.bestfit import fit
from deepfits.fitting.folded import FoldedGenerator
from deepfits.models.bundle import Model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# A bare machine has PyTorch, NumPy, h5py and pyarrow: whatever else is here is hidden from the rehearsal.
BARE = """
import runpy, sys
from importlib.machinery import PathFinder

HIDDEN = {"astropy", "scipy", "sep", "speclite", "sklearn", "safetensors", "cyclopts", "lightning",
          "matplotlib", "dask", "distributed", "pandas"}

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
runpy.run_path(SCRIPT, run_name="__main__")
"""


def test_the_command_for_a_gpu_is_rehearsed_on_a_bare_processor(tmp_path):
    script = BENCHMARKS / "gpu.py"
    code = BARE.replace("SCRIPT", repr(str(script)))
    arguments = ["--rehearse", "--minutes", "0.01", "--device", "cpu", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    failed = {
        name: part["failed"] for name, part in result.items() if isinstance(part, dict) and "failed" in part
    }
    assert not failed, failed
    assert result["tests"] == {"skipped": "no GPU"}
    assert result["simulation"]["cutouts_per_second"] > 0
    for width in ("128", "256"):
        one = result["fits"]["widths"][width]["float32, recorded"]
        assert one["mean_excess"] < 0.05
        assert one["speedup_vs_adam"] > 1
    assert result["training speed"]["32, float32"]["speedup_vs_plain"] > 0
    assert result["redshifts"]["Wide ResNet on images"]["epochs"] >= 1
    assert result["training"]["steps"] >= 1
    assert result["training"]["health"]["spread"] > 0
    files = [tmp_path / name for name in result["training"]["files"]]
    table = json.loads((tmp_path / "generator.json").read_text())
    total = sum(int(np.prod(shape)) for shape in table.values())
    assert sum(len(np.load(path)) for path in files) == total
    assert max(path.stat().st_size for path in files) < 16 << 20


def test_galaxies_drawn_on_the_device_are_those_of_the_simulated_sky(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from deepfits.sky.drawing import Shapes, draw_stamps
    from gpu_sky import DeviceSky

    sky = DeviceSky("cpu")
    rows = torch.tensor([3, 50, 700])
    at, angle = torch.tensor([[0.2, -0.3], [0.0, 0.4], [-0.1, 0.1]]), torch.tensor([0.3, 1.2, 2.5])
    drawn = torch.fft.irfft2(sky.spectrum(rows, at, angle), s=(64, 64))
    own = [t[rows].numpy() for t in (sky.disc_radius, sky.bulge_radius, sky.disc_ratio, sky.bulge_ratio)]
    bulge = sky.bulge[rows].numpy()
    shapes = Shapes(
        x=at[:, 1].numpy(), y=at[:, 0].numpy(), disc_flux=sky.flux[rows].numpy() - bulge, bulge_flux=bulge,
        disc_radius=own[0], bulge_radius=own[1], disc_ratio=own[2], bulge_ratio=own[3], angle=angle.numpy(),
    )  # fmt: skip
    expected = draw_stamps(shapes, sky.transfer)
    assert expected.amax() > 1
    torch.testing.assert_close(drawn, expected, rtol=1e-3, atol=1e-4 * float(expected.amax()))
    cutouts = sky.draw(64, torch.Generator().manual_seed(1))
    model = Model.load("builtin:clauds-hsc")
    with torch.no_grad():
        again = model.render(model.embed(cutouts.image, cutouts.weight))
    chi2 = ((cutouts.image - again) ** 2 * cutouts.weight).mean((1, 2, 3)).median()
    assert 0.8 < chi2 < 1.3  # what the model that ships says of the sky that it learnt on, 1.04


@pytest.mark.gpu
def test_fits_on_a_gpu_are_those_of_the_processor():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from deepfits.models.layers import ModelConfig
    from deepfits.models.networks import Generator

    torch.manual_seed(0)
    generator = Generator(ModelConfig(width=64)).eval().requires_grad_(False)
    latent = torch.randn(300, 64)
    image = generator(latent) + 0.01 * torch.randn(300, 5, 32, 32)
    start = latent + 0.3 * torch.randn(300, 64)
    start[200:] = torch.randn(100, 64)  # some move out of their metric's reach
    weight = torch.full_like(image, 1e4)
    here = fit(FoldedGenerator(generator), image, weight, start, num_steps=30)
    there = fit(FoldedGenerator(generator.cuda()), image, weight, start, num_steps=30, device="cuda")
    assert (there.loss / here.loss - 1).abs().median() < 0.01
    assert here.loss.median() < 0.9 * here.loss_start.median()


@pytest.mark.gpu
def test_recorded_fits_are_those_that_are_not(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from deepfits import recording
    from deepfits.fitting.rendering import InFlux

    model = Model.load("builtin:clauds-hsc").to("cuda")
    latent = torch.randn(200, 64, device="cuda")
    image = model.render(latent)
    image += 2 * torch.randn_like(image)
    weight = torch.full_like(image, 0.25)
    renderer = InFlux(FoldedGenerator(model.generator), model.normalisation)
    start = torch.randn(200, 64, device="cuda")

    def fitted():
        return fit(renderer, image, weight, start, num_steps=40, prior_strength=1.0, device="cuda")

    once = fitted()
    monkeypatch.setattr(recording, "WARM_UP", 10**9)
    torch.testing.assert_close(once.loss, fitted().loss, rtol=1e-3, atol=0)
    assert once.loss.median() < 0.5 * once.loss_start.median()


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "shared"), [("float32", False), ("float32", True), ("bf16", False), ("bf16", True)]
)
def test_recorded_steps_of_training_are_those_that_are_not(monkeypatch, precision, shared):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from deepfits import recording
    from deepfits.training.data import Batch
    from deepfits.training.engine import Engine
    from deepfits.training.settings import EngineSettings
    from train import make_trainer

    def losses(warm_up):
        monkeypatch.setattr(recording, "WARM_UP", warm_up)
        trainer = make_trainer(32, Engine(EngineSettings(device="cuda", precision=precision)), shared=shared)
        draw = torch.Generator("cuda").manual_seed(3)
        out = []
        for step in range(12):
            image = torch.randn(16 if step != 9 else 12, 5, 32, 32, generator=draw, device="cuda")
            found = trainer.step(Batch(image, torch.ones_like(image)), step, step / 12)
            out.append(torch.stack([found[name] for name in sorted(found)]))
        assert trainer.recording is not None
        return torch.stack(out), trainer

    recorded, trainer = losses(2)
    assert trainer.recording.graph is None  # the shape of step 9 began another; steps 10 and 11 warm it up
    plain, other = losses(10**9)
    torch.testing.assert_close(recorded, plain, rtol=0.02, atol=0.02)
    state, expected = trainer.state(), other.state()
    assert set(state) == set(expected)
    for name in ("generator.first.weight", "average.first.weight"):
        assert (state[name] - expected[name]).abs().mean() < 0.1 * 0.01


@pytest.mark.gpu
def test_a_training_that_goes_on_records_anew():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    sys.path.insert(0, str(BENCHMARKS))
    from deepfits.training.data import Batch
    from deepfits.training.engine import Engine
    from deepfits.training.settings import EngineSettings
    from train import make_trainer

    def step(trainer, number):
        image = torch.randn(
            16, 5, 32, 32, generator=torch.Generator("cuda").manual_seed(number), device="cuda"
        )
        return trainer.step(Batch(image, torch.ones_like(image)), number, number / 20)

    one = make_trainer(32, Engine(EngineSettings(device="cuda")), shared=True)
    for number in range(8):
        step(one, number)
    other = make_trainer(32, Engine(EngineSettings(device="cuda")), shared=True)
    for number in range(5):  # has recorded tensors that it must not use afterwards
        step(other, 100 + number)
    other.restore({name: t.clone() for name, t in one.state().items()})
    for number in range(8, 16):
        here, there = step(one, number), step(other, number)
        for name in here:
            torch.testing.assert_close(here[name], there[name], rtol=0.02, atol=0.02)
