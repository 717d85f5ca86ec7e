"""Image noise: measuring its amplitude and correlation, and drawing realisations of it.

Shapes: N objects, B bands, H, W pixels, k the largest lag.

Noise in the pixels of a coadd is not independent: resampling spreads each exposure's noise over neighbouring
pixels. With independent noise a discriminator could recognise generated images by their noise alone, so the
noise is drawn with the measured autocovariance.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepfits.photometry import SIGMA_PER_MAD

MAX_LAG = 4
CENTRE_RADIUS = 0.3  # of the side; contains the object itself
THRESHOLD = 2.0


def noise_of(weight: Tensor) -> Tensor:
    """Return the standard deviation 1/√weight; a meaningless finite number where the weight is 0."""
    return weight.clamp(min=1e-30).rsqrt()


def white_autocovariance(num_bands: int) -> np.ndarray:
    """Return the autocovariance of independent pixels whose variance is that given by the weights."""
    out = np.zeros((num_bands, 2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
    out[:, MAX_LAG, MAX_LAG] = 1
    return out


def measure_autocovariance(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Measure the autocovariance of the noise in the blank parts of cutouts.

    Images and weights are ``(N, B, H, W)``, in nJy and nJy⁻².

    Return ``(B, 2k+1, 2k+1)``, in units of the variance given by the weights: entry ``[b, k + dy, k + dx]``
    is the mean product of pixels separated by (dy, dx). The centre is 1 if the weights are right.

    A pixel of a band is blank if it lies outside the central region of the cutout and the smoothed mean of
    the *other* bands shows no source within two pixels of it, so that the selection does not depend on the
    band's own noise. With a single band, that band itself is used.
    """
    significance = torch.as_tensor(np.where(weight > 0, image, 0) * np.sqrt(weight), dtype=torch.float32)
    is_valid = torch.as_tensor(weight > 0)
    out = np.empty((image.shape[1], 2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
    for band in range(image.shape[1]):
        detection_bands = [b for b in range(image.shape[1]) if b != band] or [band]
        is_blank = _is_blank(significance[:, detection_bands].mean(dim=1)) & is_valid[:, band]
        out[band] = _autocovariance(significance[:, band], is_blank)
    return out


def _is_blank(detection: Tensor) -> Tensor:
    """Return the mask of blank pixels of a detection image, both ``(N, H, W)``."""
    smooth = functional.avg_pool2d(detection, 5, stride=1, padding=2)
    height, width = detection.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = torch.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    is_outer = distance > CENTRE_RADIUS * min(height, width)
    outer = smooth[:, is_outer]
    level = outer.median()
    scale = SIGMA_PER_MAD * (outer - level).abs().median()
    is_source = (smooth - level > THRESHOLD * scale).float()
    return is_outer & (functional.max_pool2d(is_source, 5, stride=1, padding=2) == 0)


def _autocovariance(values: Tensor, is_blank: Tensor) -> np.ndarray:
    """Average the products of values, ``(N, H, W)``, over pairs of blank pixels at each lag."""
    out = np.zeros((2 * MAX_LAG + 1, 2 * MAX_LAG + 1))
    number = is_blank.sum()
    if number == 0:
        out[MAX_LAG, MAX_LAG] = 1
        return out
    blank = is_blank.float()
    # Subtract each cutout's own sky level, so that large-scale offsets do not count as pixel noise.
    level = (values * blank).sum(dim=(1, 2)) / blank.sum(dim=(1, 2)).clamp(min=1)
    values = (values - level[:, None, None]) * blank
    height, width = values.shape[1:]
    for dy in range(MAX_LAG + 1):
        for dx in range(-MAX_LAG, MAX_LAG + 1):
            here = slice(dy, height), slice(max(dx, 0), width + min(dx, 0))
            there = slice(0, height - dy), slice(max(-dx, 0), width + min(-dx, 0))
            product = (values[:, *here] * values[:, *there]).sum(dtype=torch.float64)
            pairs = (blank[:, *here] * blank[:, *there]).sum(dtype=torch.float64)
            mean = float(product / pairs.clamp(min=1))
            out[MAX_LAG + dy, MAX_LAG + dx] = out[MAX_LAG - dy, MAX_LAG - dx] = mean
    return out


class NoiseSource:
    """Gaussian noise with a given autocovariance, in units of the noise given by the weights.

    The autocovariance is from `measure_autocovariance`; `size` is the side of the cutouts in pixels.
    """

    def __init__(self, autocovariance: np.ndarray, size: int) -> None:
        self.autocovariance, self.size = autocovariance, size
        reach = autocovariance.shape[1] // 2
        away = autocovariance.copy()
        away[:, reach, reach] = 0
        self.is_white = not away.any()
        self._scale = np.sqrt(autocovariance[:, reach, reach])
        self._transfer: dict[tuple[int, str], Tensor] = {}

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Return noise, ``(number, B, H, W)``, on the generator's device.

        Correlated noise is cut as tiles from one periodic sheet, so that the noise of different objects is
        slightly correlated at adjacent edges.
        """
        device, size = generator.device, self.size
        num_bands = len(self.autocovariance)
        if self.is_white:
            noise = torch.randn(number, num_bands, size, size, generator=generator, device=device)
            return noise * torch.as_tensor(self._scale, dtype=noise.dtype, device=device)[:, None, None]
        tiles = math.ceil(math.sqrt(number))
        side = tiles * size
        sheet = torch.randn(num_bands, side, side, generator=generator, device=device)
        sheet = torch.fft.irfft2(torch.fft.rfft2(sheet) * self._get_transfer(side, device), s=(side, side))
        cut = sheet.view(num_bands, tiles, size, tiles, size).permute(1, 3, 0, 2, 4)
        return cut.reshape(tiles * tiles, num_bands, size, size)[:number]

    def _get_transfer(self, side: int, device: torch.device) -> Tensor:
        """Return the square root of the power spectrum of a sheet, ``(B, side, side // 2 + 1)``."""
        key = (side, str(device))
        if key not in self._transfer:
            reach = self.autocovariance.shape[1] // 2
            lags = np.arange(-reach, reach + 1) % side
            periodic = np.zeros((len(self.autocovariance), side, side))
            for row, y in enumerate(lags):
                periodic[:, y, lags] = self.autocovariance[:, row]  # the sheet is wider than the lags
            power = np.fft.rfft2(periodic).real.clip(min=0)  # a measured spectrum may scatter below 0
            # Clipping adds a little variance; rescale to the measured one.
            full = np.fft.fft2(periodic).real.clip(min=0).mean(axis=(1, 2))
            power *= (self._scale**2 / full)[:, None, None]
            transfer = torch.as_tensor(np.sqrt(power), dtype=torch.float32, device=device)
            self._transfer[key] = transfer
        return self._transfer[key]
