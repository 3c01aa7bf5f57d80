"""An image volume: a NIfTI file of the user's, or the anatomical sample that comes with nibabel.

Input: file (a path or URI of a NIfTI file), or not connected. Output: image (NIfTI file).
"""

from pathlib import Path

import nibabel

import ServiceUtility


def start(c, file):
    if file:
        path, name = ServiceUtility.from_uri(file)
    else:
        path = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
        name = path.name
    image = nibabel.load(path)
    if image.ndim != 3:
        raise ValueError(f"{name} has {image.ndim} dimensions; a volume of 3 is expected")
    size = " x ".join(str(length) for length in image.shape)
    zooms = " x ".join(f"{float(length):g}" for length in image.header.get_zooms())
    ServiceUtility.info(c, f"{name}: {size} voxels of {zooms} mm")
    return ServiceUtility.make_available(c, [[str(path), name]])
