"""A picture of a volume: three slices through the middle of a mask, its outline drawn upon them, and what was measured.

Inputs: image, mask (NIfTI files on the same grid), measures (JSON file of Measure, may be left out).
Parameter: height (of a slice in pixels, 420 if not set). Output: picture (PNG file).
"""

import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

import ServiceUtility

GROUND, INK, SOFT, OUTLINE = (11, 18, 32), (226, 232, 240), (148, 163, 184), (251, 146, 60)
GAP = 24


def start(c, image, mask, measures, height):
    try:
        height = int(height or 420)
        if not 50 <= height <= 4000:
            raise ValueError
    except ValueError:
        raise ValueError(f"height is {height!r}; pixels from 50 to 4000 are expected") from None
    volume = nibabel.as_closest_canonical(nibabel.load(image))
    outline = nibabel.as_closest_canonical(nibabel.load(mask))
    if volume.shape != outline.shape:
        raise ValueError(f"the image has {volume.shape} voxels, the mask {outline.shape}; they must be of one grid")
    values, inside = volume.get_fdata(dtype=np.float32), np.asanyarray(outline.dataobj) > 0
    middle = np.argwhere(inside).mean(axis=0).round().astype(int) if inside.any() else np.array(inside.shape) // 2
    low, high = np.percentile(values, (1, 99.5))
    grey = np.clip((values - low) / max(float(high - low), 1e-9), 0, 1)
    voxel = volume.header.get_zooms()[:3]
    room = float(max(size * length for size, length in zip(voxel[1:], volume.shape[1:], strict=True)))  # mm
    panels = []
    for axis, name in ((0, "sagittal"), (1, "coronal"), (2, "axial")):
        panels.append((name, panel(grey, inside, axis, int(middle[axis]), voxel, height / room)))
        ServiceUtility.update_progress(c[0], 85 + 5 * axis)  # of the whole workflow, where this is the last step
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slices.png")
        compose(panels, caption(measures), height).save(path)
        return ServiceUtility.make_available(c, [[str(path), path.name]])


def panel(grey, inside, axis, at, voxel, scale):
    """One slice as a picture of `scale` pixels per mm, the mask's outline drawn in."""
    wide, tall = [size for other, size in enumerate(voxel) if other != axis]
    flat = np.rot90(grey.take(at, axis))
    zoom = (tall * scale, wide * scale)
    slice_ = np.clip(ndimage.zoom(flat, zoom, order=3), 0, 1)
    object_ = ndimage.zoom(np.rot90(inside.take(at, axis)).astype(np.float32), zoom, order=1) > 0.5
    edge = object_ & ~ndimage.binary_erosion(object_, iterations=2)
    rgb = np.repeat((slice_ * 255).astype(np.uint8)[..., None], 3, axis=2)
    rgb[edge] = OUTLINE
    return Image.fromarray(rgb)


def compose(panels, text, height):
    """The slices side by side, their names above and the text below."""
    font, large = ImageFont.load_default(15), ImageFont.load_default(20)
    width = GAP + sum(picture.width + GAP for _, picture in panels)
    page = Image.new("RGB", (width, height + 120), GROUND)
    pen, x = ImageDraw.Draw(page), GAP
    for name, picture in panels:
        pen.text((x, 18), name, SOFT, font)
        page.paste(picture, (x, 46 + (height - picture.height) // 2))
        x += picture.width + GAP
    pen.text((GAP, height + 68), text, INK, large)
    return page


def caption(measures):
    if not measures:
        return ""
    found = json.loads(Path(measures).read_text(encoding="utf-8"))
    return f"{found['volume_ml']:,.1f} mL in {found['voxels']:,} voxels of {found['voxel_mm3']:g} cubic mm"
