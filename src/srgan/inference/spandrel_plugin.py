"""Lets `spandrel` load this project's generators and those of leftthomas/SRGAN.

from srgan.inference import spandrel_plugin

spandrel_plugin.install()
spandrel.ModelLoader().load_from_file("weights.safetensors")
"""

import math

from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, ModelTiling, StateDict
from spandrel.util import KeyCondition, get_seq_len
from torch import Tensor, nn

from srgan.models.generators import Compact, SRResNet

AVERAGED = "ema."  # prefix of the averaged generator's weights in a checkpoint


def install() -> None:
    """Add the architectures to spandrel's main registry, after its own. Installing twice does nothing."""
    architectures = (GeneratorArch(SRResNet), GeneratorArch(Compact), LeftThomasArch())
    MAIN_REGISTRY.add(*(ArchSupport.from_architecture(arch) for arch in architectures), ignore_duplicates=True)


class GeneratorArch(Architecture[nn.Module]):
    """SRResNet or Compact of any scale, channels and blocks, from exported weights or a checkpoint (averaged)."""

    def __init__(self, kind: type[SRResNet] | type[Compact]) -> None:
        super().__init__(id=f"srgan.{kind.__name__}", name=f"srgan {kind.__name__}", detect=self._detects)
        self._kind = kind
        own = "trunk.0.body.4.running_mean" if kind is SRResNet else "trunk.0.body.2.bias"  # BN, or none
        ends = [KeyCondition.has_all("upsampling.0.0.weight", "upsampling.0.2.weight", "tail.bias")]  # pixel shuffles
        ends += [KeyCondition.has_all("tail.0.weight", "tail.0.bias")] if kind is Compact else []  # upsampler=direct
        self._keys = KeyCondition.has_all("head.0.weight", "head.1.weight", own, KeyCondition.has_any(*ends))

    def _detects(self, state_dict: StateDict) -> bool:
        return self._keys(_averaged(state_dict))

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[nn.Module]:
        state = _averaged(state_dict)
        stages = [state[f"upsampling.{index}.0.weight"].shape for index in range(get_seq_len(state, "upsampling"))]
        direct = {"upsampler": "direct"} if not stages else {}
        if direct:
            scale = math.isqrt(state["tail.0.bias"].shape[0] // 3)
        else:
            scale = math.prod(math.isqrt(outputs // inputs) for outputs, inputs, *_ in stages)
        channels = state["head.0.weight"].shape[0]
        blocks = sum(key.startswith("trunk.") and key.endswith(".body.0.weight") for key in state)
        model = self._kind(scale, channels, blocks, **direct)
        return _descriptor(self, model, state, scale, [f"{channels}nf", f"{blocks}nb"])


def _averaged(state: StateDict) -> StateDict:
    """The averaged generator's weights of a checkpoint; exported weights unchanged."""
    return {key.removeprefix(AVERAGED): value for key, value in state.items() if key.startswith(AVERAGED)} or state


# --- leftthomas/SRGAN -------------------------------------------------------------------------------------------------


class LeftThomas(nn.Module):
    """The generator of github.com/leftthomas/SRGAN: (B, 3, h, w) in [0, 1] → (B, 3, scale · h, scale · w) in [0, 1].

    Modules have the names and order of its checkpoints.

    Args:
        stages: number of ×2 stages.
        channels: feature maps.
        end: layer after the convolution of block 7: batch normalisation, or a PReLU in an older revision.
    """

    def __init__(self, stages: int, channels: int, end: nn.BatchNorm2d | nn.PReLU) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.block2 = LeftThomasBlock(channels)
        self.block3 = LeftThomasBlock(channels)
        self.block4 = LeftThomasBlock(channels)
        self.block5 = LeftThomasBlock(channels)
        self.block6 = LeftThomasBlock(channels)
        self.block7 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), end)
        self.block8 = nn.Sequential(
            *(LeftThomasStage(channels) for _ in range(stages)),
            nn.Conv2d(channels, 3, 9, padding=4),
        )

    def forward(self, lr: Tensor) -> Tensor:
        features = self.block1(lr)  # (B, 64, h, w)
        x = features
        for block in (self.block2, self.block3, self.block4, self.block5, self.block6, self.block7):
            x = block(x)
        return (self.block8(features + x).tanh() + 1) / 2  # (B, 3, scale · h, scale · w)


class LeftThomasBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class LeftThomasStage(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.pixel_shuffle(self.conv(x)))  # (B, C, 2h, 2w)


class LeftThomasArch(Architecture[nn.Module]):
    """leftthomas/SRGAN for any power of two as scale and any number of channels."""

    def __init__(self) -> None:
        keys = ("block1.0.weight", "block1.1.weight", "block2.conv1.weight", "block2.bn1.running_mean")
        keys += ("block2.prelu.weight", "block6.bn2.running_mean", "block7.0.weight", "block7.1.weight")
        keys += ("block8.0.conv.weight", "block8.0.prelu.weight")
        super().__init__(id="srgan.leftthomas", name="leftthomas/SRGAN", detect=KeyCondition.has_all(*keys))

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[nn.Module]:
        stages = get_seq_len(state_dict, "block8") - 1
        channels = state_dict["block1.0.weight"].shape[0]
        normalised = "block7.1.running_mean" in state_dict
        model = LeftThomas(stages, channels, nn.BatchNorm2d(channels) if normalised else nn.PReLU())
        return _descriptor(self, model, state_dict, 2**stages, [f"{channels}nf"])


def _descriptor(
    architecture: Architecture[nn.Module], model: nn.Module, state: StateDict, scale: int, tags: list[str]
) -> ImageModelDescriptor[nn.Module]:
    """Describe an RGB network for any size. Tiles give the same result: SR pixels depend on nearby pixels only."""
    return ImageModelDescriptor(
        model,
        state,
        architecture,
        purpose="SR",
        tags=tags,
        supports_half=True,
        supports_bfloat16=True,
        scale=scale,
        input_channels=3,
        output_channels=3,
        tiling=ModelTiling.SUPPORTED,
        call_fn=lambda network, image: network(image).to(image.dtype),  # our networks return float32
    )
