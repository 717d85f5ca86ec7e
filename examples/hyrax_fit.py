"""Latents of a cutout store through Hyrax: its loaders and writers around the best fit of deepfits.

    pip install deepfits hyrax
    python examples/hyrax_fit.py CUTOUTS MODEL

`BestFit` is a Hyrax model whose "forward" is the fit; `CutoutDataset` a Hyrax data set over a store of
`deepfits cutouts`. After `infer`, Hyrax holds one vector per object: look at them with its `umap` and
`visualize` verbs, or search for the nearest with its vector data bases. Written against Hyrax 0.6.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from hyrax import Hyrax
from hyrax.data_sets.data_set_registry import HyraxDataset
from hyrax.models.model_registry import hyrax_model
from torch import nn

from deepfits.fitting import fit
from deepfits.fitting.folded import FoldedGenerator
from deepfits.fitting.metric import learn_metric
from deepfits.fitting.rendering import InFlux
from deepfits.models.bundle import Model
from deepfits.survey.store import CutoutStore


class CutoutDataset(HyraxDataset):
    """Images and weights of a cutout store, in nJy and nJy⁻²."""

    def __init__(self, config: dict, data_location: Path | None = None) -> None:
        self.store = CutoutStore(str(data_location))
        self.object_id = self.store.catalogue(["object_id"])["object_id"]
        super().__init__(config)

    def get_image(self, index: int) -> np.ndarray:
        """Return one object's bands."""
        return self.store.take(np.array([index])).image[0]

    def get_weight(self, index: int) -> np.ndarray:
        """Return one object's inverse variances."""
        return self.store.take(np.array([index])).weight[0]

    def get_object_id(self, index: int) -> str:
        """Return one object's name."""
        return str(self.object_id[index])

    def ids(self) -> list[str]:
        """Return all names."""
        return [str(name) for name in self.object_id]

    def __getitem__(self, index: int) -> dict:
        """Return nothing: Hyrax asks field by field."""
        return {}

    def __len__(self) -> int:
        """Count the objects."""
        return len(self.object_id)

    def sample_data(self) -> dict:
        """Return the first object, as an example of all."""
        return {"data": {"image": self.get_image(0), "weight": self.get_weight(0)}}

    @classmethod
    def is_map(cls) -> bool:
        """Say that objects are found by number."""
        return True


@hyrax_model
class BestFit(nn.Module):
    """The latent of each image, by best fit from the embedder's guess (M19 §2.3), χ² in nJy."""

    def __init__(self, config: dict, data_sample: object = None) -> None:
        super().__init__()
        self.config = config
        self.model = Model.load(config["model"]["BestFit"]["path"])
        self.generator, self.embedder = self.model.generator, self.model.embedder  # what Hyrax saves
        self.render = InFlux(FoldedGenerator(self.model.generator), self.model.normalisation)
        weight = torch.tensor(self.model.normalisation.softening)[:, None, None] ** -2
        self.metric = learn_metric(self.render, self.model.config.latent_size, weight=weight)

    @staticmethod
    def to_tensor(data_dict: dict) -> tuple:
        """Take images and weights from what the data set gives; Hyrax keeps this source text by itself."""
        import numpy

        data = data_dict["data"]
        return tuple(numpy.asarray(data[name], numpy.float32) for name in ("image", "weight"))

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return latents, ``(N, L)``."""
        image, weight = (torch.as_tensor(part) for part in batch)
        start = self.model.embed(image, weight).detach()
        return fit(self.render, image, weight, start, metric=self.metric).latent

    def train_step(self, batch: object) -> dict:
        """Refuse: models are trained by `deepfits train`."""
        raise NotImplementedError("train with `deepfits train`; Hyrax only infers here")


def latents(store: str, model: str, results: str = "hyrax-results") -> np.ndarray:
    """Fit a whole store under Hyrax; return its vectors in the order of the store, ``(N, L)``."""
    weights = Path(results) / "start.pth"
    weights.parent.mkdir(parents=True, exist_ok=True)
    hyrax = Hyrax()
    hyrax.config["general"]["results_dir"] = results
    hyrax.config["model"]["name"] = "BestFit"
    hyrax.config["model"]["BestFit"] = {"path": model}
    hyrax.config["model_inputs"] = {
        "infer": {
            "data": {
                "dataset_class": "CutoutDataset",
                "data_location": str(Path(store).resolve()),
                "fields": ["image", "weight"],
                "primary_id_field": "object_id",
            }
        }
    }
    hyrax.config["data_loader"]["batch_size"] = 256
    BestFit(hyrax.config).save(weights)  # Hyrax wants weights of its own to load
    hyrax.config["infer"]["model_weights_file"] = str(weights)
    found = hyrax.infer()
    return np.stack([np.asarray(found[index]) for index in range(len(found))])


if __name__ == "__main__":
    print(latents(*sys.argv[1:3]).shape)
