"""From 8-bit colours to the scale that ImageNet's weights expect."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

# The colours' mean and deviation that torchvision's weights expect.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images ``(N, 3, H, W)`` as float32 in the scale of torchvision's weights."""
    return transforms.normalize(transforms.to_dtype(images, torch.float32, scale=True), list(MEAN), list(DEVIATION))


def denormalise(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return a normalised image ``(3, H, W)`` as a picture ``(H, W, 3)``, uint8: the inverse of `normalise`."""
    mean, deviation = (torch.tensor(values, device=image.device)[:, None, None] for values in (MEAN, DEVIATION))
    colours = ((image * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return colours.permute(1, 2, 0).contiguous().cpu().numpy()
