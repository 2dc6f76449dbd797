"""Images in Minari datasets: which observations are stored as JPEG, and their decoding."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from offbench.datasets.columns import Array
from offbench.errors import DatasetError

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


def decode_images(frames: Iterable[Any], shape: tuple[int, ...]) -> Array:
    """Decode JPEG byte strings (or uint8 arrays of their bytes) to [T, *shape] uint8.

    Raises:
        DatasetError: a frame is no JPEG image, or not of `shape` ([H, W] or [H, W, C]).
    """
    from PIL import Image

    decoded = []
    for index, frame in enumerate(frames):
        try:
            with Image.open(io.BytesIO(bytes(frame)), formats=("JPEG",)) as image:
                # The size is read from the header, before anything of that size is decoded.
                fits = (image.height, image.width, *((len(image.getbands()),) if len(shape) == 3 else ())) == shape
                if fits:
                    decoded.append(np.asarray(image, dtype=np.uint8))
        except (OSError, ValueError, TypeError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
            raise DatasetError(
                f"frame {index} of an episode is no JPEG image", str(error), "download or copy the dataset again"
            ) from error
        if not fits:
            raise DatasetError(f"frame {index} of an episode is an image of {image.size}, not of shape {shape}")
    return np.stack(decoded) if decoded else np.empty((0, *shape), np.uint8)
