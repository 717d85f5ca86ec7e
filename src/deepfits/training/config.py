"""What a training decides beside the networks' shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from deepfits.config import Range, Stored, check
from deepfits.errors import InputError
from deepfits.observation import SceneGrid


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Stored):
    """How networks are trained. The defaults are plain M19 §2.2; each option can be switched on alone.

    Attributes
    ----------
    batch_size, steps
        Real images per step (over all devices), and number of steps.
    learning_rate, beta1, beta2
        Of Adam, the same for the three networks.
    embedder_rate
        The embedder's learning rate, in units of `learning_rate`.
    shared_discriminator_pass
        Generated images pass the discriminator once a step, for its loss and the generator's together; the
        generator then follows the discriminator of before its step. Off, they pass it again after that step.
    initialisation
        How weights are drawn at first: see `deepfits.training.initialise`.
    decay
        Fraction of the training, at its end, over which the learning rates fall linearly to zero.
    normalisation, softening_sigmas
        Between nJy and the networks' units: see `deepfits.survey.normalise`.
    noise
        Noise-aware training: before the discriminator sees a generated image, noise of the strength that a
        real image's weights state is added to it in nJy, so that the generator learns galaxies without noise.
        ``"white"``: independent pixels; ``"correlated"``: with the correlation and the strength measured in
        the blank parts of the cutouts.
    noisy_embedder
        Train the embedder on generated images with that noise, as real images have it.
    symmetries
        Flip and turn the real images by quarter turns at random: the sky has no up.
    incomplete
        Use images with missing bands or bad pixels: the same pixels are hidden in a generated image.
    neighbours
        ``"mask"``: the pixels of other objects are hidden in real images, and the same pixels in generated
        ones, so that the generator learns galaxies by themselves; ``"keep"``: images as they are.
    ema
        Decay per step of the exponential moving average of the generator that becomes the model's; 0: none.
    reconstruction
        Strength of an additional loss: weighted squares between real images and what the generator makes of
        their embedding, for generator and embedder.
    hidden_bands
        Chance of each band of each image to be hidden from the embedder, as a survey without that band would
        show it; the reconstruction is still held against all of it, so that the guess fills the band in.
    refine
        Training an embedder alone: start from the embedder of the finished model, not from a new one. With a
        large `reconstruction` its guesses come nearer to the best fits.
    smoothness
        Strength of a penalty on patterns of generated images that are finer than the PSF lets through, in
        units of the noise; bands whose PSF the pixels do not sample (a width known to be under 2.5 pixels)
        are left alone. For noise-aware training: images that hold noise have such patterns by nature.
    latent_gradient
        Strength with which the embedder's loss reaches the generator too (M19 has 0: the embedder only).
    reference_fwhm_arcsec
        Above 0, the generator draws scenes at this PSF, a round Gaussian, and each is shown through the PSF
        and the pixels of the real image beside it (`deepfits.observation`); 0: it draws images, as in M19.
    scene_size, scene_pixel_arcsec
        The grid of the scenes.
    aid_steps
        Steps of teaching what helps a fit (`deepfits.training.teaching`) when the model is
        finished, at most as many as the training had; fewer than 100: none.
    log_every
        Steps between two lines of ``metrics.jsonl``.
    checkpoint_seconds
        Time between two checkpoints.
    evaluate_every
        Steps between two evaluations of the model; 0 for the end only.
    num_evaluated
        Held-out objects to evaluate with.
    patience
        Stop after so many evaluations without a better kernel distance, and keep the best model; 0: never.
    """

    batch_size: Annotated[int, Range(ge=1, le=1 << 20)] = 64
    steps: Annotated[int, Range(ge=1)] = 100_000
    learning_rate: Annotated[float, Range(ge=1e-20, le=1e3)] = 4e-4
    beta1: Annotated[float, Range(ge=0, lt=1)] = 0.5
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.999
    embedder_rate: Annotated[float, Range(ge=1e-20, le=1e6)] = 1.0
    shared_discriminator_pass: bool = False
    initialisation: Literal["uniform", "normal", "orthogonal"] = "uniform"
    decay: Annotated[float, Range(ge=0, le=1)] = 0.0
    normalisation: Literal["standard", "asinh"] = "standard"
    softening_sigmas: Annotated[float, Range(ge=1e-6, le=1e6)] = 3.0
    noise: Literal["none", "white", "correlated"] = "none"
    noisy_embedder: bool = False
    symmetries: bool = False
    incomplete: bool = False
    neighbours: Literal["mask", "keep"] = "keep"
    ema: Annotated[float, Range(ge=0, lt=1)] = 0.0
    reconstruction: Annotated[float, Range(ge=0, le=1e12)] = 0.0
    hidden_bands: Annotated[float, Range(ge=0, lt=1)] = 0.0
    refine: bool = False
    smoothness: Annotated[float, Range(ge=0, le=1e12)] = 0.0
    latent_gradient: Annotated[float, Range(ge=0, le=1e12)] = 0.0
    reference_fwhm_arcsec: Annotated[float, Range(ge=0, le=10)] = 0.0
    scene_size: Annotated[int, Range(ge=4, le=4096)] = 32
    scene_pixel_arcsec: Annotated[float, Range(gt=0, le=10)] = 0.18
    aid_steps: Annotated[int, Range(ge=0, le=10_000_000)] = 0
    log_every: Annotated[int, Range(ge=1)] = 50
    checkpoint_seconds: Annotated[float, Range(ge=0)] = 60.0
    evaluate_every: Annotated[int, Range(ge=0)] = 0
    num_evaluated: Annotated[int, Range(ge=1)] = 256
    patience: Annotated[int, Range(ge=0)] = 0

    def __post_init__(self) -> None:
        check(self, where="training")
        if self.patience and not self.evaluate_every:
            raise InputError("training: patience needs evaluate_every, the steps between two evaluations")
        if self.reference_fwhm_arcsec and (self.noise == "none" or self.normalisation != "asinh"):
            raise InputError(
                "training: scenes (reference_fwhm_arcsec) need noise, 'white' or 'correlated', and "
                "normalisation='asinh'"
            )
        if self.smoothness and self.noise == "none":
            raise InputError(
                "training: smoothness needs noise, 'white' or 'correlated'; or set smoothness to 0"
            )
        if self.noisy_embedder and self.noise == "none":
            raise InputError("training: noisy_embedder needs noise, 'white' or 'correlated'")

    @property
    def grid(self) -> SceneGrid | None:
        """What scenes are drawn on; None where the generator draws images."""
        if not self.reference_fwhm_arcsec:
            return None
        return SceneGrid(
            size=self.scene_size,
            pixel_scale_arcsec=self.scene_pixel_arcsec,
            reference_fwhm_arcsec=self.reference_fwhm_arcsec,
        )
