"""Images in Minari datasets: which observations are stored as JPEG, and their decoding."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array

MINIMUM_SIDE = 32  # pixels; Minari stores smaller images as plain arrays


def is_image_space(space: spaces.Space[Any]) -> bool:
    """Whether Minari treats values of `space` as images: uint8 in 0..255, both sides at least 32 pixels."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) in (2, 3)
        and min(space.shape[:2]) >= MINIMUM_SIDE
        and bool((space.low == 0).all() and (space.high == 255).all())
    )


def decode_images(frames: Iterable[Any]) -> Array:
    """Decode JPEG byte strings (or uint8 arrays of their bytes) to [T, H, W] or [T, H, W, C] uint8."""
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(bytes(frame))), dtype=np.uint8) for frame in frames])
