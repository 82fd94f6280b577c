"""A training step may be captured in a CUDA graph: rehearsed without a GPU, for all that conf/ has."""

import contextlib
import copy
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from rehearsal import CaptureError, Rehearsal
from test_objectives import CROP, SMALL, composed
from torch import Tensor, nn

from srgan import config
from srgan.data.crops import CropBatches, RandomCrops
from srgan.data.datamodule import Pair
from srgan.losses.mix import LossMix
from srgan.losses.pixel import MSELoss
from srgan.models import vgg
from srgan.models.generators import Compact
from srgan.training.ema import EMA
from srgan.training.graph import WARM_UP, usable
from srgan.training.muon import Muon
from srgan.training.step import Step

SCALE = 4
GENERATOR = ("generator.channels=4", "generator.blocks=1")
SGD = partial(torch.optim.SGD, lr=1e-3, foreach=False)
ADVERSARIAL = [name for name in config.GROUPS["adversarial"] if name != "wasserstein"]  # never replayed as a graph


@pytest.fixture(params=["meta", "cpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On `meta`, what is made on the CPU shows; on `cpu`, the steps compute in bf16 as on a GPU."""
    if request.param == "meta":  # which autocast does not know
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(vgg, "_SHARED", {})  # each case moves its own
    monkeypatch.setattr(
        vgg, "_random_state", lambda shapes: {key: torch.full(shape, 1e-3) for key, shape in shapes.items()}
    )
    return request.param


def rehearse(
    device: str,
    generator: nn.Module,
    loss: LossMix,
    discriminator: nn.Module | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
) -> None:
    """Steps as in a graph: the first ones as they are, the last two watched, which must do the same operations."""
    for network in (generator, loss, discriminator):
        if network is not None:
            network.to(device)
    step = Step(
        generator=generator,
        loss=loss,
        optimizer=optimizer(generator.parameters()),
        discriminator=discriminator,
        discriminator_optimizer=None if discriminator is None else optimizer(discriminator.parameters()),
        gradient_clip=1.0,
        ema=EMA(copy.deepcopy(generator).requires_grad_(False), generator, 0.999),
    )
    step.guard.reads = False  # as on a GPU
    batch = Pair(*(torch.rand(2, 3, side, side, device=device) for side in (CROP // SCALE, CROP)))
    seen: list[list[tuple[object, ...]]] = []
    for done in range(WARM_UP + 2):
        watch = Rehearsal(device, step, batch) if done >= WARM_UP else contextlib.nullcontext()
        with torch.autocast(device, torch.bfloat16, cache_enabled=False), watch:
            assert step(batch, done, logging=True)
        if isinstance(watch, Rehearsal):
            seen.append(watch.operations)
    assert len(seen[0]) > 50
    if seen[0] != seen[1]:
        raise CaptureError("the operations or their shapes change from step to step")


@pytest.mark.parametrize("generator", [*config.GROUPS["generator"], "compact generator.upsampler=direct"])
def test_a_step_of_every_generator_can_be_captured(device: str, generator: str) -> None:
    options = ("generator.growth=2",) if generator == "rrdb" else ()
    cfg = composed(
        *GENERATOR,
        *f"generator={generator}".split(),
        "discriminator=projected",
        "loss=srgan_vgg22",
        *SMALL["projected"],
        *options,
    )
    parts = instantiate(cfg.generator), instantiate(cfg.loss.gan, _convert_="all"), instantiate(cfg.discriminator)
    rehearse(device, *parts)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, Muon])
@pytest.mark.parametrize("device", ["cpu"], indirect=True)  # on `meta`, Adam knows neither fused nor capturable
def test_an_update_by_every_optimizer_that_conf_names_can_be_captured(
    device: str, optimizer: type[torch.optim.Optimizer]
) -> None:
    cfg = composed(*GENERATOR, "generator=srresnet", "discriminator=srgan", *SMALL["srgan"])
    parts = instantiate(cfg.generator), instantiate(cfg.loss.gan, _convert_="all"), instantiate(cfg.discriminator)
    rehearse(device, *parts, partial(optimizer, fused=True))


PAIRS = list(zip(ADVERSARIAL, cycle(config.GROUPS["discriminator"]), strict=False))


@pytest.mark.parametrize(("adversarial", "discriminator"), PAIRS)
@pytest.mark.parametrize("device", ["meta"], indirect=True)
def test_a_step_of_every_discriminator_and_of_every_adversarial_loss_can_be_captured(
    device: str, adversarial: str, discriminator: str
) -> None:
    options = SMALL.get(discriminator, ("discriminator.channels=2",))
    options += ("feature_matching=0.1", "adversarial.r1=1", "balance=0.3", "adversarial_ramp=9")
    cfg = composed(
        *GENERATOR, "generator=compact", f"discriminator={discriminator}", f"adversarial={adversarial}", *options
    )
    parts = instantiate(cfg.generator), instantiate(cfg.loss.gan, _convert_="all"), instantiate(cfg.discriminator)
    rehearse(device, *parts)


@pytest.mark.parametrize("device", ["meta"], indirect=True)
@pytest.mark.parametrize("content", [name for name in config.GROUPS["content"] if name not in ("dists", "lpips")])
def test_a_step_of_every_content_loss_can_be_captured(device: str, content: str) -> None:
    cfg = composed(*GENERATOR, "generator=compact", f"content={content}")
    loss = instantiate(cfg.loss.content, _convert_="all")
    if not usable(torch.device("cuda"), loss, []):
        pytest.skip("not replayed as a graph, which the log says")
    rehearse(device, instantiate(cfg.generator), loss)


@pytest.mark.parametrize(
    ("degradation", "cached"),
    [("bicubic", True), ("bicubic", False), ("bicubic degradation.blur_sigma=1", True), ("pillow", True)],
)
def test_the_pairs_of_a_graph_can_be_captured(
    device: str, degradation: str, cached: bool, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops cut from a cache, and LR made of them by matrices that stay when a function's cache has evicted them."""
    data = instantiate(
        composed(
            "data=folder",
            f"data.root={photo_folder}",
            "data.cache=none",
            *f"degradation={degradation}".split(),
        ).data,
        _convert_="all",
    )
    data.setup("fit")
    if cached:
        data._train = CropBatches(RandomCrops(data.splits.train, CROP, 1, "dihedral", torch.device(device)))
        monkeypatch.setattr(RandomCrops, "on_gpu", True)
    pair, draws = data.pairs_in_graph(), [(0, 0), (0, 1)]
    batch = data._train.__getitems__(draws)
    batch = batch._replace(hr=batch.hr.to(device))
    pair(*batch)
    with Rehearsal(device, pair, batch):
        found = pair(*batch)
    assert found.lr.shape == (2, 3, CROP // SCALE, CROP // SCALE) and found.hr.shape == (2, 3, CROP, CROP)
    data.degradation.draws = True
    assert data.pairs_in_graph() is None


# --- what it is there to find -----------------------------------------------------------------------------------------


class IndexFromTheCPU(Compact):
    def forward(self, lr: Tensor) -> Tensor:
        index = torch.arange(lr.shape[-1]).to(lr.device)
        return super().forward(lr.index_select(-1, index))


class MatrixInACache(Compact):
    @staticmethod
    @lru_cache
    def matrix(device: torch.device) -> Tensor:
        return torch.eye(CROP // SCALE, device=device)

    def forward(self, lr: Tensor) -> Tensor:
        return super().forward(lr @ self.matrix(lr.device))


class WaitsForTheDevice(Compact):
    def forward(self, lr: Tensor) -> Tensor:
        return super().forward(lr) * (2.0 if lr.device.type == "cpu" and lr.mean().item() > 2 else 1.0)


class ChangesShape(MSELoss):
    calls = 0

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(sr[..., self.calls :], hr[..., self.calls :])


@pytest.mark.parametrize(
    ("device", "generator", "content", "fault"),
    [
        ("meta", IndexFromTheCPU, MSELoss, "has a tensor on cpu"),
        ("cpu", MatrixInACache, MSELoss, r"reads a tensor \(8, 8\) that nobody holds"),
        ("cpu", WaitsForTheDevice, MSELoss, "waits for the device"),
        ("cpu", Compact, ChangesShape, "change from step to step"),
    ],
    indirect=["device"],
)
def test_the_rehearsal_finds_what_would_break_a_capture(
    device: str, generator: type[Compact], content: type[MSELoss], fault: str
) -> None:
    with pytest.raises(CaptureError, match=fault):
        rehearse(device, generator(SCALE, 4, 1), LossMix({"mse": content()}, {"mse": 1.0}))
