"""Training configuration: everything except the architecture of the networks."""

from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import Range, Stored, check
from deepfits.errors import InputError
from deepfits.observation import SceneGrid


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Stored):
    """How the networks are trained. The defaults are plain M19 §2.2; each option can be enabled alone."""

    batch_size: Annotated[int, Range(ge=1, le=1 << 20)] = 64
    """Real images per step, over all devices."""
    steps: Annotated[int, Range(ge=1)] = 100_000
    """Number of steps."""
    learning_rate: Annotated[float, Range(ge=1e-20, le=1e3)] = 4e-4
    """Of Adam, like `beta1` and `beta2`; the same for all three networks."""
    beta1: Annotated[float, Range(ge=0, lt=1)] = 0.5
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.999
    shared_discriminator_pass: bool = False
    """Evaluate the discriminator on the generated images once per step and use the result for both losses;
    the generator then follows the discriminator from before its update. Otherwise the generated images are
    evaluated again after that update."""
    decay: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Final fraction of the training over which the learning rates fall linearly to zero."""
    normalisation: Literal["standard", "asinh"] = "standard"
    """The mapping between nJy and the networks' units: see `deepfits.survey.normalise`."""
    softening_sigmas: Annotated[float, Range(ge=1e-6, le=1e6)] = 3.0
    """Softening of the asinh stretch, in units of the noise."""
    noise: Literal["none", "white", "correlated"] = "none"
    """Noise-aware training: before the discriminator sees a generated image, noise at the level given by a
    real image's weights is added to it in nJy, so that the generator learns noise-free galaxies. ``"white"``:
    independent pixels; ``"correlated"``: with the correlation and amplitude measured in the blank parts of
    the cutouts."""
    noisy_embedder: bool = False
    """Train the embedder on generated images with that noise added, as in real images."""
    symmetries: bool = False
    """Augment the real images with random flips and quarter turns."""
    incomplete: bool = False
    """Also use images with missing bands or bad pixels; the same pixels are masked in the generated
    images."""
    neighbours: Literal["mask", "keep"] = "keep"
    """``"mask"``: mask the pixels of neighbouring objects in real images, and the same pixels in generated
    ones, so that the generator learns isolated galaxies; ``"keep"``: use the images unchanged."""
    ema: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Decay per step of the exponential moving average of the generator's weights, which the finished model
    uses; 0 disables averaging."""
    reconstruction: Annotated[float, Range(ge=0, le=1e12)] = 0.0
    """Weight of an additional loss for generator and embedder: the noise-weighted squared difference between
    real images and their reconstruction by embedder and generator."""
    refine: bool = False
    """When training only an embedder: start from the embedder of the finished model instead of a new one.
    With a large `reconstruction` its guesses move closer to the best fits."""
    smoothness: Annotated[float, Range(ge=0, le=1e12)] = 0.0
    """Weight of a penalty on structure in generated images that is finer than the PSF, in units of the noise;
    bands with an undersampled PSF (a known FWHM below 2.5 pixels) are exempt, unless scenes are drawn. Only
    for noise-aware training, because images with noise naturally have such structure."""
    reference_fwhm_arcsec: Annotated[float, Range(ge=0, le=10)] = 0.0
    """If positive, the generator draws scenes at a round Gaussian PSF of this FWHM, and each scene is
    observed with the PSF and the pixel grid of a real image (`deepfits.observation`); if 0, it draws images
    directly, as in M19."""
    scene_size: Annotated[int, Range(ge=4, le=4096)] = 32
    """Number of pixels on a side of the scenes."""
    scene_pixel_arcsec: Annotated[float, Range(gt=0, le=10)] = 0.18
    """Their pixel scale."""
    log_every: Annotated[int, Range(ge=1)] = 50
    """Steps between rows of ``metrics.jsonl``."""
    checkpoint_seconds: Annotated[float, Range(ge=0)] = 60.0
    """Time between checkpoints."""
    evaluate_every: Annotated[int, Range(ge=0)] = 0
    """Steps between evaluations of the model; 0: only at the end."""
    num_evaluated: Annotated[int, Range(ge=1)] = 256
    """Number of held-out objects to evaluate on."""
    patience: Annotated[int, Range(ge=0)] = 0
    """Stop after this many evaluations without an improved kernel distance, and keep the best model; 0: never
    stop early."""

    def __post_init__(self) -> None:
        check(self, where="training")
        if self.patience and not self.evaluate_every:
            raise InputError("training: patience needs evaluate_every, the steps between evaluations")
        if self.reference_fwhm_arcsec and (self.noise == "none" or self.normalisation != "asinh"):
            raise InputError(
                "training: scenes (reference_fwhm_arcsec) need normalisation='asinh' and noise='white' or "
                "'correlated'"
            )
        if self.smoothness and self.noise == "none":
            raise InputError(
                "training: smoothness needs noise='white' or 'correlated'; or set smoothness to 0"
            )
        if self.noisy_embedder and self.noise == "none":
            raise InputError("training: noisy_embedder needs noise='white' or 'correlated'")

    @property
    def grid(self) -> SceneGrid | None:
        """Pixel grid and PSF of the scenes; None if the generator draws images directly."""
        if not self.reference_fwhm_arcsec:
            return None
        return SceneGrid(
            size=self.scene_size,
            pixel_scale_arcsec=self.scene_pixel_arcsec,
            reference_fwhm_arcsec=self.reference_fwhm_arcsec,
        )
