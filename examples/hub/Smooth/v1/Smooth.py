"""Smooths a volume with a Gaussian of the same width in all directions of space.

Input: image (NIfTI file). Parameter: fwhm (full width at half maximum in mm, 4 if not set).
Output: smooth (NIfTI file, 32 bit float, same grid).
"""

import math
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

import ServiceUtility


def start(c, image, fwhm):
    try:
        fwhm = float(fwhm or 4)
        if not 0 < fwhm < math.inf:
            raise ValueError
    except ValueError:
        raise ValueError(f"fwhm is {fwhm!r}; a width in mm above 0 is expected") from None
    volume = nibabel.load(image)
    sigma = fwhm / math.sqrt(8 * math.log(2))  # mm
    voxel = np.array(volume.header.get_zooms()[:3])  # mm
    smooth = ndimage.gaussian_filter(volume.get_fdata(dtype=np.float32), sigma / voxel, mode="nearest")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "smooth.nii.gz")
        nibabel.save(nibabel.Nifti1Image(smooth, volume.affine), path)
        return ServiceUtility.make_available(c, [[str(path), path.name]])
