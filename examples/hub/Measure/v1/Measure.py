"""The volume of a mask and where it lies.

Input: mask (NIfTI file; everything above 0 counts). Output: measures (JSON file: voxels, voxel_mm3, volume_mm3,
volume_ml, centre_mm: its centre of mass in the space of the image's affine).
"""

import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np

import ServiceUtility


def start(c, mask):
    volume = nibabel.load(mask)
    inside = np.asanyarray(volume.dataobj) > 0
    voxels = int(inside.sum())
    voxel = abs(float(np.linalg.det(volume.affine[:3, :3])))  # mm^3, also where the grid is rotated or sheared
    centre = nibabel.affines.apply_affine(volume.affine, np.argwhere(inside).mean(axis=0)) if voxels else None
    measures = {
        "voxels": voxels,
        "voxel_mm3": round(voxel, 6),
        "volume_mm3": round(voxels * voxel, 3),
        "volume_ml": round(voxels * voxel / 1000, 3),
        "centre_mm": None if centre is None else [round(float(at), 2) for at in centre],
    }
    ServiceUtility.info(c, f"volume {measures['volume_ml']} mL")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "measures.json")
        path.write_text(json.dumps(measures, indent=1) + "\n", encoding="utf-8")
        return ServiceUtility.make_available(c, [[str(path), path.name]])
