"""Separates an object from its background, by a threshold given or found (N. Otsu, IEEE Trans. SMC 9 (1979), 62-66).

Input: image (NIfTI file). Parameters: threshold (a value of the image; Otsu's if not set), side (`above` or `below`:
where the object is; `above` if not set), largest (`true` or `false`: keep only the largest connected part, with its
holes filled; `true` if not set). Output: mask (NIfTI file, 8 bit: 1 in the object, 0 outside).
"""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

import ServiceUtility


def start(c, image, threshold, side, largest):
    if side not in (None, "", "above", "below"):
        raise ValueError(f"side is {side!r}; `above` or `below` is expected")
    if largest not in (None, "", "true", "false"):
        raise ValueError(f"largest is {largest!r}; `true` or `false` is expected")
    volume = nibabel.load(image)
    values = volume.get_fdata(dtype=np.float32)
    try:
        level = float(threshold) if threshold else otsu(values)
    except ValueError:
        raise ValueError(f"threshold is {threshold!r}; a number is expected") from None
    mask = values < level if side == "below" else values > level
    if not mask.any():
        low, high = values.min(), values.max()
        raise ValueError(f"no voxel is {side or 'above'} {level:g}; the values go from {low:g} to {high:g}")
    if largest != "false":
        parts, _ = ndimage.label(mask)  # neighbours share a face
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0  # the background
        mask = ndimage.binary_fill_holes(parts == sizes.argmax())
    ServiceUtility.info(c, f"{int(mask.sum())} of {mask.size} voxels, threshold {level:g}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), volume.affine), path)
        return ServiceUtility.make_available(c, [[str(path), path.name]])


def otsu(values, bins=256):
    """The threshold that separates the values into two classes of the greatest variance between them."""
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + np.nanargmax(between[:-1])])
