"""Generators made ready for use: batch normalisation becomes part of the convolution before it."""

import copy

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from srgan.models.generators import Generator


def fold(generator: Generator) -> Generator:
    """A copy in evaluation mode whose batch normalisations, with their running statistics, lie in the convolutions.

    It gives the same SR but for rounding, and cannot be trained on.
    """
    folded = copy.deepcopy(generator).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
    return folded.requires_grad_(False)


def _fold_sequence(sequence: nn.Sequential) -> None:
    previous: nn.Module | None = None
    for name, module in list(sequence.named_children()):
        if isinstance(module, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            position = list(sequence).index(previous)
            sequence[position] = fuse_conv_bn_eval(previous, module)
            delattr(sequence, name)
        previous = module
