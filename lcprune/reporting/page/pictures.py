"""Pixels as PNG data URIs."""

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_SIDE = 96
"""Pixels; larger images are made smaller."""
MATRIX_SIDE = 200

_RAMP = np.array(
    [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64
)  # viridis: dark is alike, light is different; readable with any colour vision


def image_uri(image: npt.NDArray[np.uint8]) -> str:
    """An image ``(C, H, W)`` with 1 or 3 channels, no side longer than `MAX_SIDE`."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    if max(picture.size) > MAX_SIDE:
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
    return _uri(picture)


def matrix_uri(matrix: npt.NDArray[np.floating], low: float, high: float) -> str:
    """A square matrix as colours from ``low`` to ``high``, no side longer than `MATRIX_SIDE`; 64 levels."""
    span = high - low or 1.0
    levels = np.clip(np.nan_to_num((matrix - low) / span), 0, 1)
    picture = Image.fromarray(np.round(levels * 255).astype(np.uint8))
    if max(picture.size) > MATRIX_SIDE:
        picture = picture.resize((MATRIX_SIDE, MATRIX_SIDE), Image.Resampling.BOX)
    coarse = Image.fromarray(np.asarray(picture) // 4)
    coarse.putpalette(ramp(64).tobytes(), "RGB")
    return _uri(coarse)


def ramp(levels: int) -> npt.NDArray[np.uint8]:
    """Colours from low to high, ``(levels, 3)``."""
    places = np.linspace(0, len(_RAMP) - 1, levels)
    channels = [np.interp(places, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def _uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
