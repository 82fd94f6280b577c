"""Whole images brought to one size in place of crops: the Keras recipe's way."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image

from srgan.data.datamodule import ImageDataModule
from srgan.training.build import build_module


def make(compose_config: Callable[..., DictConfig], folder: Path, *overrides: str) -> ImageDataModule:
    cfg = compose_config(
        "data=folder", f"data.root={folder}", "data.held_out=0.5", "scale=4", "batch_size=3", *overrides
    )
    return instantiate(cfg.data, _convert_="all")


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_training_and_scored_images_are_whole_images_of_that_size(
    compose_config: Callable[..., DictConfig], tmp_path: Path, cache: str
) -> None:
    rng = np.random.default_rng(0)
    for index in range(4):
        small = rng.integers(256, size=(6, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((50 + index, 80), Image.Resampling.BICUBIC).save(tmp_path / f"{index}.png")
    options = ("data.resize=[64,64]", "data.crop=64", "data.augment=none", f"data.cache={cache}")
    data = make(compose_config, tmp_path, *options)
    data.setup("fit")
    source = data.splits.train
    expected = [
        np.array(Image.open(source.name(index)).resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        for index in range(len(source))
    ]
    for image in next(iter(data.batches(0))).hr:
        assert image.shape == (3, 64, 64)
        assert min(np.abs(image.numpy().astype(int) - whole).max() for whole in expected) <= 1
    assert data.test_set()[0].shape == (3, 64, 64)
    lr, hr = data.pair(data.test_set()[0][None])
    assert lr.shape[-2:] == (16, 16) and hr.shape[-2:] == (64, 64)
    for wrong in ("data.resize=[64]", "data.resize=[64,32]"):
        with pytest.raises(InstantiationException, match=r"expected \[height,width\], both at least data.crop=64"):
            make(compose_config, tmp_path, *options, wrong)


def test_the_keras_recipe_is_a_gan_from_the_start_on_two_images_a_step(
    compose_config: Callable[..., DictConfig],
) -> None:
    module = build_module(compose_config("experiment=keras_celeba_x4", "vgg=random", "generator.blocks=1"))
    (phase,) = module.phases
    assert (phase.name, phase.steps, phase.loss.weights) == ("gan", 30_000, {"vgg": 1.0, "adversarial": 1e-3})
    assert module.separate_batches
    for optimizer in module.configure_optimizers()[0]:
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"]) == (2e-4, (0.5, 0.999))
    with torch.no_grad():
        assert module.discriminator(module.generator(torch.rand(1, 3, 64, 64))).shape == (1, 1, 16, 16)
