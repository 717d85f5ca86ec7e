"""Weights and mask of an image: HDUs of its own file, and of the files beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from deepfits.errors import InputError, listed
from deepfits.survey.astrometry import celestial_wcs, offsets
from deepfits.survey.companions import SHARED, exposure_maps_of
from deepfits.survey.fitsfile import OpenFiles, image_hdus, stem_of
from deepfits.survey.hdu_roles import (
    ROLES,
    extras_of,
    image_words,
    is_exposure_map,
    name_of,
    number_of,
    role_of_hdu,
    sky_images,
)
from deepfits.survey.image_source import ImageSource
from deepfits.survey.pixels import HduPixels, header_of
from deepfits.survey.sdss import FrameNoise, frame_noise
from deepfits.survey.weights import WEIGHT_ROLES

# Offset in pixels, by their WCS, above which weights do not match the image; measured at the centre and this
# far from it, where a rotation shows but a distortion that only one of them has is negligible.
FAR_APART, ASIDE = 2.0, 16.0


@dataclass(kw_only=True)
class ExtraPlanes:
    """Weights and mask of an image, found one after another."""

    hdus: fits.HDUList
    image: Any
    path: Path
    layer: int | None = None  # number of the image in a cube
    planes: dict[str, HduPixels | FrameNoise] = field(default_factory=dict)  # one of `WEIGHT_ROLES`, ``mask``
    notes: list[str] = field(default_factory=list)  # remarks on what was decided
    has_shared_weights: bool = False  # those of all bands, perhaps of another depth

    def add_own(self, *, is_hsc: bool) -> None:
        """Add the weights and mask in the image's own file."""
        hdus, numbers = self.hdus, image_hdus(self.hdus)
        if self.layer is not None:
            alike = [
                hdu for hdu in hdus if hdu.is_image and hdu.shape in (self.image.shape, self.image.shape[1:])
            ]
            named = ((role_of_hdu(hdu), self._plane(hdu, self.path)) for hdu in alike)
            self.planes = {str(role): plane for role, plane in named if role in ROLES}
            return
        for role, own in extras_of(hdus, self.image, self.path).items():
            self.planes[role] = HduPixels(hdu=own, path=self.path)
            others = [
                f"{n} ({name_of(hdus[n])})"
                for n in numbers
                if hdus[n] is not own and role_of_hdu(hdus[n]) == role and hdus[n].shape == own.shape
            ]
            if role != "mask" and others and len(sky_images(hdus)) == 1:
                which = f"HDU {number_of(hdus, own)} ({name_of(own)}), not {', '.join(others)}"
                self.notes.append(f"WARNING: the {role} plane is {which}")
        self._note_unused(numbers, is_hsc=is_hsc)
        if self.planes:
            return
        if number_of(hdus, self.image) == 0 and (noise := frame_noise(hdus)) is not None:
            self.planes["photon noise"] = noise
            self.notes.append(
                f"SDSS frame: variance from sky, photons (gain {noise.gain}), dark current and read noise"
            )
        elif is_hsc and len(numbers) >= 3 and hdus[numbers[0]] is self.image:
            for role, number in zip(("mask", "variance"), numbers[1:3], strict=True):
                self.planes[role] = HduPixels(hdu=hdus[number], path=self.path)

    def _plane(self, hdu: Any, path: Path, **others: Any) -> HduPixels:
        """Return the image's own layer of a plane for all layers of its cube, else the plane itself."""
        is_of_layers = self.layer is not None and hdu.shape == self.image.shape
        return HduPixels(hdu=hdu, path=path, layer=self.layer if is_of_layers else None, **others)

    def _note_unused(self, numbers: list[int], *, is_hsc: bool) -> None:
        """Note HDUs of the image's shape without a name, and those with several layers."""
        hdus, shape = self.hdus, self.image.shape
        if not is_hsc:
            known = {*sky_images(hdus), number_of(hdus, self.image)}
            unnamed = [
                n
                for n in numbers
                if n not in known and role_of_hdu(hdus[n]) is None and hdus[n].shape == shape
            ]
            if self.planes:  # the only plane worth mentioning is a possible mask
                may_be_mask = "mask" not in self.planes
                unnamed = [n for n in unnamed if may_be_mask and int(hdus[n].header.get("BITPIX", 0)) > 0]
            self.notes += [
                f"WARNING: HDU {n} is not used: its name does not say what it holds (WHT, IVAR, VAR, ...)"
                for n in unnamed
            ]
        self.notes += [
            f"WARNING: HDU {n} ({hdu.name}) is not used: it has {hdu.shape[0]} layers, and it is unknown "
            f"which is the {role_of_hdu(hdu)} of this image; keep only that one, in two dimensions"
            for n, hdu in enumerate(hdus)
            if hdu.is_image and len(hdu.shape or ()) == 3 and n not in numbers
            if hdu.shape[1:] == shape[-2:] and role_of_hdu(hdu) in ROLES
        ]

    def add_companion(self, beside: fits.HDUList, path: Path, kind: str, *, is_guess: bool) -> None:
        """Add the plane of an open companion file; with `is_guess`, its weights are those of all bands."""
        numbers = image_hdus(beside)
        if self.layer is not None and not numbers:
            numbers = [n for n, hdu in enumerate(beside) if hdu.is_image and hdu.shape == self.image.shape]
        if not numbers:
            raise InputError(f"{path}: no two-dimensional image in this {kind} file")
        if kind != "mask":
            own = [role for role in self.planes if role != "mask"]
            self.notes += [
                f"{path.name} is used instead of the {role} in the image's file" for role in own[:1]
            ]
            self.planes = {k: v for k, v in self.planes.items() if k == "mask"}
        number = self._counterpart(beside, numbers, kind, path)
        plane = beside[number]
        alike = (n for n in numbers if n != number and beside[n].shape == plane.shape)
        if len(sky_images(self.hdus)) == 1 and (more := [n for n in alike if role_of_hdu(beside[n]) is None]):
            self.notes.append(f"WARNING: {path.name}: only HDU {number} is used, not {listed(more)}")
        if is_guess:
            self.has_shared_weights = plane.shape[-2:] == self.image.shape[-2:]
            if not self.has_shared_weights:
                self.notes.append(f"WARNING: {path.name}: not used: its shape differs from the image's")
                return
            self.notes.append(
                f"WARNING: {path.name}: no band in its name: used as relative weights of this band"
            )
        own_mask = self.planes.get("mask") if kind == "mask" else None
        assert not isinstance(own_mask, FrameNoise)
        self.planes[kind] = self._plane(plane, path, file=beside, own=own_mask)
        self.notes += self._misalignment_warnings(beside, plane, path, kind)

    def _counterpart(self, beside: fits.HDUList, numbers: list[int], kind: str, path: Path) -> int:
        """Return the HDU with the image's weights or mask in a companion file, one of `numbers`.

        It is matched by name, or else by position if both files have the same number of planes.
        """
        images = sky_images(self.hdus)
        numbers = [n for n in numbers if role_of_hdu(beside[n]) == kind] or numbers
        own, own_number = image_words(name_of(self.image)), number_of(self.hdus, self.image)
        namesakes = [n for n in numbers if own and image_words(name_of(beside[n])) == own]
        if len(namesakes) == 1:
            return namesakes[0]
        if len(images) > 1 and len(numbers) > 1 and len(numbers) != len(images):
            raise InputError(
                f"{path}: {len(numbers)} planes for the {len(images)} images of {self.path.name}, "
                f"and no name tells which belongs to HDU {own_number}; give corresponding HDUs "
                "the same EXTNAME"
            )
        return own_number if own_number in numbers else numbers[0]

    def _misalignment_warnings(self, beside: fits.HDUList, plane: Any, path: Path, kind: str) -> list[str]:
        """Warn if the WCS of weights or a mask differs from the image's."""
        image_wcs, map_wcs = (
            celestial_wcs(file, hdu, header_of(file, hdu))[0]
            for file, hdu in ((self.hdus, self.image), (beside, plane))
        )
        if image_wcs is None or map_wcs is None:
            return []
        middle = 0.5 * (np.array(self.image.shape[:-3:-1]) - 1)
        off = offsets(image_wcs, map_wcs, middle, middle, ASIDE)
        if off.max() < FAR_APART:
            return []
        lies = (
            f"lies {off[0]:.0f} pixels off the image" if np.isfinite(off[0]) else "lies elsewhere on the sky"
        )
        if off[0] < FAR_APART:
            lies = "is rotated, mirrored or scaled relative to the image"
        return [f"WARNING: {path.name}: by its WCS this {kind} {lies}; does it belong to the image?"]


def find_extras(
    source: ImageSource,
    hdus: fits.HDUList,
    image: Any,
    companions: Iterable[tuple[Path, str]],
    files: OpenFiles,
) -> ExtraPlanes:
    """Find the weights and mask of an image in its own file, `hdus`, and in companions, opened in `files`."""
    out = ExtraPlanes(hdus=hdus, image=image, path=source.path, layer=source.layer)
    out.add_own(is_hsc=source.layout == "hsc")
    for path, stated in companions:
        kind = stated.removesuffix(SHARED)
        is_guess = stated != kind != "mask"  # shared weights, perhaps of another depth
        if not (is_guess and out.planes.keys() - {"mask"}):
            beside = files.open(path)
            out.add_companion(beside, path, kind, is_guess=is_guess)
    if not out.planes.keys() & {*WEIGHT_ROLES}:
        names = {n: name_of(hdus[n]) for n in image_hdus(hdus)}
        maps = [f"HDU {n} ({name})" for n, name in names.items() if is_exposure_map(name)]
        out.notes += [
            f"WARNING: {name} is not used, and there are no weights; if the inverse variance is "
            f"proportional to this exposure map, save it as {stem_of(source.path)}.weight.fits"
            for name in (maps + exposure_maps_of(source.path))[:1]
        ]
    return out
