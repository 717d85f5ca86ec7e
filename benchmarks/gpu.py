"""All measurements that need a GPU, in one command: tests, fits, training and redshifts.

    python benchmarks/gpu.py --minutes 9 --out gpu

This needs only Python, PyTorch, NumPy, h5py and pyarrow, and no data: galaxies are simulated on the device
(`gpu_sky.py`). The result of each part is written to ``gpu/gpu.json`` when it is finished. Another run adds
the missing parts and continues the training from its checkpoint. The trained generator is saved in half
precision, in files below 16 MiB. ``--rehearse`` runs everything in miniature, for example on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from deepfits import recording  # noqa: E402
from deepfits.fitting.bestfit import fit  # noqa: E402
from deepfits.fitting.folded import FoldedGenerator  # noqa: E402
from deepfits.fitting.metric import learn_metric  # noqa: E402
from deepfits.fitting.objective import Objective  # noqa: E402
from deepfits.fitting.rendering import InFlux  # noqa: E402
from deepfits.fitting.solvers import LBFGS  # noqa: E402
from deepfits.models.bundle import BUILTIN_DIRECTORY, Model  # noqa: E402
from deepfits.models.layers import ModelConfig  # noqa: E402
from deepfits.models.wide_resnet import WideResNet, WideResNetConfig  # noqa: E402
from deepfits.observation import Sight  # noqa: E402
from deepfits.provenance import provenance  # noqa: E402
from deepfits.recipes import recipe  # noqa: E402
from deepfits.survey.normalise import Normalisation  # noqa: E402
from deepfits.survey.store import StoreInfo  # noqa: E402
from deepfits.training.data import Batch, turn  # noqa: E402
from deepfits.training.engine import Engine  # noqa: E402
from deepfits.training.health import examine  # noqa: E402
from deepfits.training.loop import Trainer  # noqa: E402
from deepfits.training.settings import EngineSettings  # noqa: E402
from fit_parts import count_operations, plain_adam, widen  # noqa: E402
from gpu_sky import SIZE, DeviceSky  # noqa: E402
from machine import Limit, measure_limit  # noqa: E402
from train import make_plain_step, make_trainer, seconds_of  # noqa: E402

MIB = 1 << 20
ADAM_STEPS = 500
TIME_TO_COMPILE = 240.0  # seconds that must remain before compilation is attempted
Precision = Literal["float32", "tf32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of all parts; those of `REHEARSAL` are as small as possible."""

    num_fit: int = 200_000
    num_reference: int = 2_048
    num_metric: int = 512
    reference_steps: int = 200
    slots: int = 8_192
    wide_slots: int = 1_024
    num_wide: int = 20_000
    adam_objects: int = 4_096
    wide: int = 1024
    width: int = 1024
    batch: int = 256
    labels: int = 6_000
    tested: int = 2_000
    resnet_width: int = 64
    resnet_blocks: tuple[int, ...] = (3, 4, 6, 3)
    adam_steps: int = 50
    rounds: int = 5


REHEARSAL = Sizes(
    num_fit=12, num_reference=8, num_metric=8, reference_steps=9, slots=8, wide_slots=4, num_wide=4,
    adam_objects=4, wide=256, width=32, batch=8, labels=32, tested=16, resnet_width=4, resnet_blocks=(1,),
    adam_steps=1, rounds=1,
)  # fmt: skip


class Bench:
    """The device, the sizes, and the results so far."""

    def __init__(self, device: torch.device, out: Path, sizes: Sizes, minutes: float) -> None:
        self.device, self.out, self.sizes, self.minutes = device, out, sizes, minutes
        self.sky = DeviceSky(device)
        self.path = out / "gpu.json"
        out.mkdir(parents=True, exist_ok=True)
        self.result: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.begin = time.monotonic()

    @property
    def seconds_left(self) -> float:
        """Seconds of the given minutes that remain."""
        return 60 * self.minutes - (time.monotonic() - self.begin)

    def save(self) -> None:
        """Write the JSON file atomically."""
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.result, indent=1))
        temporary.replace(self.path)

    def generator(self, seed: int) -> torch.Generator:
        """Return a random generator on the device."""
        return torch.Generator(self.device).manual_seed(seed)

    def synchronise(self) -> None:
        """Wait until the device has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """Call `work`; return its result and the seconds it took."""
        self.synchronise()
        begin = time.perf_counter()
        done = work()
        self.synchronise()
        return done, time.perf_counter() - begin


def load_builtin(device: torch.device, name: str = "clauds-hsc") -> Model:
    """Read a model that ships with the package, without the safetensors library, which may be missing."""
    directory = BUILTIN_DIRECTORY / name
    content = json.loads((directory / "model.json").read_text())
    model = Model.make(
        ModelConfig.from_json(content["architecture"]),
        StoreInfo.from_json(content["info"], directory),
        Normalisation.from_json(content["normalisation"]),
    )
    raw = (directory / "weights.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    kinds = {"F16": np.float16, "F32": np.float32}
    for name, held in json.loads(raw[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = (start + at for at in held["data_offsets"])
        values = np.frombuffer(raw[first:last], kinds[held["dtype"]]).reshape(held["shape"])
        network, _, key = name.partition(".")
        target = getattr(model, network).state_dict(keep_vars=True)[key]
        with torch.no_grad():
            target.copy_(torch.from_numpy(values.astype(np.float32)))
    return model.eval().to(device)


def gpu_tests(bench: Bench) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    if bench.device.type != "cuda":
        return {"skipped": "no GPU"}
    files = [p for p in (HERE.parent / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-m", "gpu", *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=environment, check=False, cwd=HERE.parent
    )
    return {"returncode": done.returncode, "tail": (done.stdout + done.stderr)[-2000:]}


def simulate(bench: Bench) -> dict[str, Any]:
    """Measure how many galaxies per second are simulated on the device."""
    size = bench.sizes.batch
    bench.sky.draw(size, bench.generator(0))
    number = max(1, bench.sizes.num_fit // 10 // size)
    draw = bench.generator(1)
    _, seconds = bench.time(lambda: [bench.sky.draw(size, draw) for _ in range(number)])
    return {"cutouts_per_second": number * size / seconds, "batch": size}


class Compiled:
    """An objective compiled by `torch.compile`."""

    def __init__(self, objective: Objective) -> None:
        self.run, self.renderer = torch.compile(objective.__call__), objective.renderer

    def __call__(
        self, latent: Tensor, image: Tensor, weight: Tensor, observation: None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the objective."""
        loss, gradient, amplitude = self.run(latent, image, weight)
        return loss, gradient, amplitude


@contextmanager
def products(name: str) -> Iterator[None]:
    """Set whether float32 products use TF32 tensor cores."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fits(bench: Bench) -> dict[str, Any]:
    """Fit at 128 channels and at full width, in every precision, and compare with the plain Adam loop."""
    sizes, device = bench.sizes, bench.device
    model = load_builtin(device)
    drawn = bench.sky.draw(min(sizes.num_fit, 20_000), bench.generator(2))
    data = model.normalisation.normalise(drawn.image)
    times = -(-sizes.num_fit // len(data))
    with torch.no_grad():
        start = torch.cat([model.embedder(part) for part in data.split(4096)])
    weight = torch.ones_like(data)
    inner = FoldedGenerator(model.generator)
    metric, seconds = bench.time(
        lambda: learn_metric(inner, model.config.latent_size, num_reference=sizes.num_metric, device=device)
    )
    known = slice(0, sizes.num_reference)
    long = LBFGS(metric=metric, num_steps=sizes.reference_steps, tolerance=0)
    best = _fit(inner, data[known], weight[known], start[known], long, sizes.slots, None).loss
    out: dict[str, Any] = {"metric_seconds": seconds, "widths": {}}
    for width, number, slots in (
        (model.config.width, sizes.num_fit, sizes.slots), (sizes.wide, sizes.num_wide, sizes.wide_slots),
    ):  # fmt: skip
        generator = widen(model.generator, width // model.config.width).to(device)
        rows = torch.arange(number, device=device) % len(data) if times > 1 else slice(0, number)
        these = data[rows], weight[rows], start[rows]
        few = slice(0, min(number, sizes.adam_objects))
        by_adam = partial(plain_adam, generator, data[rows][few], weight[rows][few], start[rows][few])
        by_adam(1)
        adam, seconds = bench.time(partial(by_adam, sizes.adam_steps))
        adam_rate = len(adam.loss) / (seconds * ADAM_STEPS / sizes.adam_steps)
        rows_out: dict[str, Any] = {"adam_objects_per_second": adam_rate}
        is_narrow = width == model.config.width
        for how in ("recorded", "plain", "compile"):
            for precision in ("float32", "tf32"):
                if device.type != "cuda" and (precision, how) != ("float32", "recorded"):
                    continue
                if how == "compile" and (not is_narrow or bench.seconds_left < TIME_TO_COMPILE):
                    continue  # compiling takes a minute
                name = f"{precision}, {how}"
                try:
                    with products(precision):
                        rows_out[name] = _one_fit(
                            bench, generator, these, metric, best, slots, how, adam_rate
                        )
                except Exception as error:  # one failure must not cost the other results
                    rows_out[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
                bench.result["fits, so far"] = {**out, str(width): rows_out}
                bench.save()
        out["widths"][str(width)] = rows_out
    bench.result.pop("fits, so far", None)
    return out


def _one_fit(
    bench: Bench, generator: nn.Module, these: Any, metric: Any, best: Tensor, slots: int, how: str,
    adam_rate: float,
) -> dict[str, Any]:  # fmt: skip
    """Fit and compare with the best known losses."""
    folded = FoldedGenerator(generator)
    solver = LBFGS(metric=metric)
    warm = slice(0, min(len(these[0]), slots))
    shim = Compiled if how == "compile" else None
    recording.WARM_UP = sys.maxsize if how == "plain" else 3

    def work(part: slice) -> Any:
        data, weight, start = (t[part] for t in these)
        return _fit(folded, data, weight, start, solver, slots, shim)

    work(warm)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found, seconds = bench.time(lambda: work(slice(None)))
    number = len(found.loss)
    excess = (found.loss[: len(best)] / best[: len(found.loss)] - 1).float()
    evaluations = float(found.num_steps.float().mean()) + 1
    rate = count_operations(folded) * evaluations * number / seconds
    return {
        "objects": number,
        "seconds": seconds,
        "objects_per_second": number / seconds,
        "speedup_vs_adam": number / seconds / adam_rate,
        "evaluations": evaluations,
        "mean_excess": float(excess.mean()),
        "within_1pct": float((excess < 0.01).float().mean()),
        "tflops": rate / 1e12,
        "fraction_of_limit": rate / bench.result["limit"]["flops"],
        "memory_bytes": torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None,
    }


def _fit(
    renderer: Any, data: Tensor, weight: Tensor, start: Tensor, solver: LBFGS, slots: int, shim: Any
) -> Any:
    """Fit with the package's objective, or with the one that `shim` makes of it."""
    if shim is None:
        return fit(
            renderer, data, weight, start, solver=solver, batch_size=min(slots, len(data)), device=data.device
        )
    from deepfits.fitting.engine import minimise

    return minimise(
        shim(Objective(renderer)), data, weight, start, solver, num_slots=min(slots, len(data)),
        device=data.device, advance=lambda number: None,
    )  # fmt: skip


def train_speed(bench: Bench) -> dict[str, Any]:
    """Compare the speed of training with that of the plain script, at the widths of the recipes."""
    out = {}
    precisions: tuple[Precision, ...] = (
        ("float32", "tf32", "bf16") if bench.device.type == "cuda" else ("float32",)
    )
    size = bench.sizes.batch
    for width in dict.fromkeys((min(128, bench.sizes.width), bench.sizes.width)):
        real = torch.randn(size, 5, SIZE, SIZE, device=bench.device)
        batch = Batch(real, torch.ones_like(real))
        plain = make_plain_step(width, bench.device)
        for precision in precisions:
            engine = Engine(EngineSettings(device=str(bench.device), precision=precision))
            shared = width < bench.sizes.width  # as in the recipe `small`, but not in `paper`
            trainer = make_trainer(width, engine, shared=shared)
            steps = {
                "plain": lambda p=plain, r=real: p(r),
                "trainer": lambda t=trainer, b=batch: t.step(b, 0),
            }
            seconds_of(steps["trainer"], 5, bench.device)  # warm-up, in which the step is recorded
            number = {n: max(1, min(50, int(1 / seconds_of(s, 2, bench.device)))) for n, s in steps.items()}
            rounds = [
                {n: number[n] * size / seconds_of(s, number[n], bench.device) for n, s in steps.items()}
                for _ in range(bench.sizes.rounds)
            ]
            out[f"{width}, {precision}"] = {
                "batch": size,
                "images_per_s": float(np.median([r["trainer"] for r in rounds])),
                "images_per_s_plain": float(np.median([r["plain"] for r in rounds])),
                "speedup_vs_plain": float(np.median([r["trainer"] / r["plain"] for r in rounds])),
            }
    return out


def train_paper(bench: Bench) -> dict[str, Any]:
    """Train at the paper's width on galaxies simulated on the fly, until the time is up."""
    sizes, device = bench.sizes, bench.device
    shipped = load_builtin(torch.device("cpu"))
    small = recipe("small").training
    config = replace(
        small, batch_size=sizes.batch, steps=10**9, symmetries=False, decay=0.5, evaluate_every=0
    )
    torch.manual_seed(0)
    model = Model.make(replace(shipped.config, width=sizes.width), shipped.info, shipped.normalisation)
    precision: Precision = "bf16" if device.type == "cuda" else "float32"
    engine = Engine(EngineSettings(device=str(device), precision=precision))
    trainer = Trainer(model, config, bench.sky.noise, 0, engine)
    checkpoint, before, step = bench.out / "training.pt", 0.0, 0
    if checkpoint.exists():
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainer.restore(held["state"])
        step, before = held["step"], held["seconds"]
    budget, begin, begun = max(1.0, bench.seconds_left - 30), time.monotonic(), step
    losses: dict[str, float] = {}
    while (passed := time.monotonic() - begin) < budget or step == begun:
        drawn = bench.sky.draw(sizes.batch, bench.generator(1000 + step))
        found = trainer.step(Batch(drawn.image, drawn.weight), step, min(1.0, passed / budget))
        step += 1
        if step % 100 == 1 or passed + 2 > budget:
            losses = {name: float(loss) for name, loss in found.items()}
    seconds = time.monotonic() - begin
    torch.save({"state": trainer.state(), "step": step, "seconds": before + seconds}, checkpoint)
    finished = trainer.finished_model().to(device)
    held_out = bench.sky.draw(max(16, min(1024, sizes.tested)), bench.generator(7))
    health = examine(
        finished,
        Batch(held_out.image, held_out.weight),
        bench.sky.noise,
        fit=_health_fit,
    )
    out = {
        "width": sizes.width,
        "precision": precision,
        "steps": step,
        "galaxies": step * sizes.batch,
        "seconds": before + seconds,
        "images_per_s": (step - begun) * sizes.batch / seconds,
        "losses": losses,
        "health": health,
        "files": _save_half(bench, finished.generator),
    }
    if device.type == "cuda":
        out["memory_bytes"] = torch.cuda.max_memory_allocated()
    return out


def _health_fit(model: Model, image: Tensor, weight: Tensor, start: Tensor, sight: Sight | None) -> Tensor:
    renderer = InFlux(FoldedGenerator(model.generator), model.normalisation)
    found = fit(
        renderer, image, weight, start, num_steps=40, batch_size=min(256, len(image)), device=image.device
    )
    return found.latent.to(image.device)


def _save_half(bench: Bench, generator: nn.Module) -> list[str]:
    """Write a network in half precision: a flat array, split into files below 16 MiB, and its shapes."""
    parts = [(name, t.detach().cpu().half().flatten().numpy()) for name, t in generator.state_dict().items()]
    flat = np.concatenate([values for _, values in parts])
    table = {name: list(generator.state_dict()[name].shape) for name, _ in parts}
    (bench.out / "generator.json").write_text(json.dumps(table))
    names, length = [], 7 * MIB  # of two bytes each
    for number, first in enumerate(range(0, len(flat), length)):
        path = bench.out / f"generator-{number:02d}.npy"
        np.save(path, flat[first : first + length])
        names.append(path.name)
    return names


def redshifts(bench: Bench) -> dict[str, Any]:
    """Train redshift networks with few labels, on images and on latents (M19 Table 1)."""
    sizes, device = bench.sizes, bench.device
    model = load_builtin(device)
    drawn = bench.sky.draw(sizes.labels + sizes.tested, bench.generator(11))
    x = model.normalisation.normalise(drawn.image)
    z = torch.log1p(drawn.z_spec)
    renderer = InFlux(FoldedGenerator(model.generator), model.normalisation)
    with torch.no_grad():
        start = torch.cat([model.embedder(part) for part in x.split(4096)])
    noise = torch.tensor(model.normalisation.softening, device=device)[:, None, None] ** -2
    metric = learn_metric(
        renderer, start.shape[1], num_reference=sizes.num_metric, device=device, weight=noise
    )
    found = fit(
        renderer, drawn.image, drawn.weight, start, prior_strength=1.0, device=device,
        batch_size=min(sizes.slots, len(x)), metric=metric,
    )  # fmt: skip
    latent = torch.nan_to_num(found.latent.to(device).float())
    config = WideResNetConfig(width=sizes.resnet_width, blocks=sizes.resnet_blocks)
    torch.manual_seed(0)
    out: dict[str, Any] = {"labels": sizes.labels, "tested": sizes.tested}
    seconds = max(1.0, 0.35 * bench.seconds_left)
    for name, network, inputs in (
        ("Wide ResNet on images", WideResNet(config), x),
        ("network on fitted latents", _mlp(latent.shape[1]), latent),
        ("network on embedded latents", _mlp(start.shape[1]), start),
    ):
        out[name] = _learn(bench, network.to(device), inputs, z, seconds if "Wide" in name else seconds / 4)
    return out


def _mlp(inputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1)
    )


def _learn(bench: Bench, network: nn.Module, x: Tensor, z: Tensor, seconds: float) -> dict[str, Any]:
    """Train until a validation tenth stops improving or the time is up; evaluate the best epoch."""
    sizes = bench.sizes
    learnt = sizes.labels - max(8, sizes.labels // 10)
    rows = {"learn": slice(0, learnt), "stop": slice(learnt, sizes.labels), "test": slice(sizes.labels, None)}
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-4)
    draw, begin = bench.generator(3), time.monotonic()
    best, best_state, since, epochs, rate = math.inf, copy.deepcopy(network.state_dict()), 0, 0, 1e-3
    while time.monotonic() - begin < seconds and rate > 2e-5:
        network.train()
        order = torch.randperm(learnt, generator=draw, device=bench.device)
        for part in order.split(min(128, learnt)):
            images = x[part]
            if images.ndim == 4:
                images = turn(images, torch.randint(8, (len(part),), generator=draw, device=bench.device))
            loss = nn.functional.smooth_l1_loss(network(images)[:, 0], z[part], beta=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        epochs += 1
        score = float((_predict(network, x[rows["stop"]]) - z[rows["stop"]]).abs().mean())
        since = 0 if score < best else since + 1
        if score < best:
            best, best_state = score, copy.deepcopy(network.state_dict())
        if since >= 15:  # continue from the best state with a quarter of the learning rate
            since, rate = 0, rate / 4
            network.load_state_dict(best_state)
            for group in optimiser.param_groups:
                group["lr"] = rate
    network.load_state_dict(best_state)
    predicted = torch.expm1(_predict(network, x[rows["test"]]))
    true = torch.expm1(z[rows["test"]])
    delta = (predicted - true) / (1 + true)
    sigma = 1.4826 * (delta - delta.median()).abs().median()
    return {
        "sigma_mad": float(sigma),
        "outliers_0.15": float((delta.abs() > 0.15).float().mean()),
        "r2": float(1 - (predicted - true).square().mean() / true.var()),
        "epochs": epochs,
        "stopped_improving": rate <= 2e-5,
        "seconds": time.monotonic() - begin,
    }


@torch.no_grad()
def _predict(network: nn.Module, x: Tensor) -> Tensor:
    network.eval()
    return torch.cat([network(part)[:, 0] for part in x.split(1024)])


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "tests": gpu_tests,
    "simulation": simulate,
    "fits": fits,
    "training speed": train_speed,
    "redshifts": redshifts,
    "training": train_paper,
}


def main() -> None:
    """Run the missing parts; the training uses the remaining time and continues in each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rehearse", action="store_true", help="run in miniature")
    parser.add_argument("--only", choices=list(PARTS), action="append")
    arguments = parser.parse_args()
    sizes = REHEARSAL if arguments.rehearse else Sizes()
    bench = Bench(torch.device(arguments.device), arguments.out, sizes, arguments.minutes)
    bench.result |= {"benchmark": "gpu", "rehearsal": arguments.rehearse, **provenance()}
    if bench.device.type == "cuda":
        bench.result["device"] = torch.cuda.get_device_name(bench.device)
    else:
        bench.result["device"] = "cpu"
    if "limit" not in bench.result:
        limit = Limit(flops=1e9, by="assumed", rates={}, peak_flops=None)
        if not arguments.rehearse:
            with products("tf32"):
                limit = measure_limit(bench.device, seconds=0.2)
        bench.result["limit"] = limit.to_json()
    for name, part in PARTS.items():
        is_done = "failed" not in bench.result.get(name, {"failed": ""}) and name != "training"
        if is_done or (arguments.only and name not in arguments.only):
            continue
        print(f"{name}: {bench.seconds_left:.0f} s left", flush=True)
        try:
            bench.result[name] = part(bench)
        except Exception as error:  # recorded in the JSON file; the next part still runs
            bench.result[name] = {"failed": f"{type(error).__name__}: {error}"[:2000]}
            print(f"{name} FAILED: {error}", file=sys.stderr, flush=True)
        bench.save()
    print(json.dumps(bench.result))


if __name__ == "__main__":
    main()
