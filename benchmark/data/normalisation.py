"""From 8-bit colours to the scale that ImageNet's weights expect."""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

# The colours' mean and deviation that torchvision's weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images ``(N, 3, H, W)`` as float32 in the scale of torchvision's weights."""
    return transforms.normalize(transforms.to_dtype(images, torch.float32, scale=True), list(MEAN), list(DEVIATION))
