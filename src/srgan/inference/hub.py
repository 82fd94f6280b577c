"""Generators on the Hugging Face Hub.

from srgan.inference.hub import HubGenerator

HubGenerator("srresnet_x4").push_to_hub("me/srresnet_x4")
upscale = Upscaler(HubGenerator.from_pretrained("me/srresnet_x4").generator)
"""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor, nn

from srgan import weights as packaged
from srgan.models import checkpoints

FILE = "model.safetensors"  # the name that the Hub expects


class HubGenerator(  # pyright: ignore[reportUnsafeMultipleInheritance] -- as in the mixin's manual
    nn.Module, PyTorchModelHubMixin, library_name="srgan", tags=["super-resolution", "image-to-image"]
):
    """A generator with `push_to_hub`, `save_pretrained` and `from_pretrained` (from a repository or a folder).

    Only safetensors are written and read, and only generators of this package are built.

    Args:
        weights: a name of `srgan.weights.names()`, or a file that `srgan.export --format safetensors` wrote.

    Attributes:
        generator: the network, in evaluation mode.
        description: how the generator was built and trained, and its scores; see `checkpoints.describe`.
    """

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        path = packaged.find(weights)
        self.description = checkpoints.describe(path)
        self.generator = checkpoints.load(path)
        self._hub_mixin_config = self.description["generator"]  # content of config.json

    def forward(self, lr: Tensor) -> Tensor:
        """(B, 3, h, w) LR in [0, 1] → (B, 3, scale · h, scale · w) SR."""
        return self.generator(lr)

    def _save_pretrained(self, save_directory: Path) -> None:
        node, about = self.description["generator"], self.description["about"]
        checkpoints.save_weights(save_directory / FILE, self.generator, node, about)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubGenerator":
        folder = Path(model_id)
        if folder.is_dir():
            return cls(folder / FILE)
        accepted = ("revision", "cache_dir", "force_download", "token", "local_files_only")
        return cls(hf_hub_download(model_id, FILE, **{name: options[name] for name in accepted if name in options}))
