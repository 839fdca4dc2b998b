"""Inference noise, seeded per (seed, image, layer).

An image gets the same mask in any batch, order, process or machine of the same library versions. Both the PyTorch
forward and the CPU engine draw from here. Training noise is PyTorch's own generator and is not made here.
"""

import hashlib

import numpy as np


def field_key(seed: int, image: str | int, layer: str) -> bytes:
    """Return the 16 bytes that seed one layer's field for one image; arguments as for `uniform_field`."""
    return hashlib.blake2b(f"{seed}/{image}/{layer}".encode(), digest_size=16).digest()


def uniform_field(seed: int, image: str | int, layer: str, shape: tuple[int, int]) -> np.ndarray:
    """Draw the uniform field that decides one layer's mask for one image.

    Parameters
    ----------
    seed
        The cell's seed.
    image
        The image's stable identifier in its data set.
    layer
        The mask's qualified name within the backbone, such as ``layer1.0.mask1``.
    shape
        Height and width of the mask, in positions.

    Returns
    -------
    numpy.ndarray
        Shape ``(H, W)``, float32, uniform in [0, 1), from NumPy's counter-based Philox generator.
    """
    key = np.frombuffer(field_key(seed, image, layer), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(shape, dtype=np.float32)


def logistic_threshold(seed: int, image: str | int, layer: str, shape: tuple[int, int]) -> np.ndarray:
    """Return the field that a confidence logit must exceed for its position to be sampled.

    With ``u`` uniform, ``logit(pi) > log u - log(1 - u)`` holds with probability ``pi``: the difference of two
    Gumbel variables is logistic, so this is M >= 0.5 of eq. 6 whatever the temperature.

    Returns
    -------
    numpy.ndarray
        Shape ``(H, W)``, float32.
    """
    uniform = uniform_field(seed, image, layer, shape)
    with np.errstate(divide="ignore"):
        return np.log(uniform) - np.log1p(-uniform)
