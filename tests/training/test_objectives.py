"""Every adversarial loss with every discriminator, and every content loss, as conf/ has them: two steps each."""

import copy
import itertools
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from srgan import config
from srgan.data.datamodule import Pair
from srgan.losses.mix import LossMix
from srgan.losses.pixel import L1Loss, MSELoss
from srgan.models.generators import Compact
from srgan.models.vgg import VGG19, shared_vgg19
from srgan.training.ema import EMA
from srgan.training.step import Step

CROP = 32
SMALL = {
    "srgan": ("discriminator.channels=2", "discriminator.hidden=4"),
    "keras": ("discriminator.channels=2", "discriminator.hidden=4"),
    "projected": (
        "discriminator.layers={conv1_2:4,conv2_2:4}",
        "~discriminator.layers.conv3_4",
        "~discriminator.layers.conv4_4",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def vgg() -> VGG19:
    """The network that all tests share: as long as somebody holds it, it is not made again."""
    return shared_vgg19("random", ["conv5_4"], False)


@cache
def composed(*overrides: str) -> DictConfig:
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose("train", overrides=["vgg=random", f"data.crop={CROP}", "lpips=null", *overrides])


def batch(scale: int, count: int = 4) -> Pair:
    generator = torch.Generator().manual_seed(1)
    return Pair(*(torch.rand(count, 3, side, side, generator=generator) for side in (CROP // scale, CROP)))


def make_step(loss: LossMix, scale: int, discriminator: nn.Module | None = None, **options: object) -> Step:
    torch.manual_seed(0)
    generator = Compact(scale, channels=4, blocks=1)
    nn.init.normal_(generator.tail.weight, std=0.01)
    return Step(
        generator=generator,
        loss=loss,
        optimizer=torch.optim.Adam(generator.parameters(), 1e-3),
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.Adam(discriminator.parameters(), 1e-3) if discriminator else None,
        **options,
    )


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def moved(before: list[Tensor], network: nn.Module) -> bool:
    return all(p.isfinite().all() for p in network.parameters()) and any(
        not torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True)
    )


@pytest.mark.parametrize("adversarial", config.GROUPS["adversarial"])
@pytest.mark.parametrize("discriminator", config.GROUPS["discriminator"])
def test_every_adversarial_loss_trains_with_every_discriminator(adversarial: str, discriminator: str) -> None:
    chosen = composed(f"adversarial={adversarial}", "feature_matching=0.1", "adversarial.r1=1")  # not for each pair
    loss, judge = instantiate(chosen.loss.gan, _convert_="all"), judge_of(discriminator)
    step = make_step(loss, 2, judge)
    learner, critic = weights(step.generator), weights(judge)
    period = loss.adversarial.critic_steps
    values = [step(batch(2), done, logging=True) for done in (period - 2 + period * (period == 1), 2 * period - 1)]
    assert moved(learner, step.generator) and moved(critic, judge)
    assert values[-1]["grad_at_sr/adversarial"] > 0 and values[-1]["grad_at_sr/feature_matching"] > 0
    assert all(value.isfinite() for figures in values for value in figures.values())
    assert {"loss/adversarial", "loss/feature_matching", "train/d_penalty", "train/d_gap"} <= values[-1].keys()
    assert "train/content_to_adversarial" in values[-1]


@pytest.mark.parametrize(
    ("content", "scale"), [*zip(config.GROUPS["content"], itertools.cycle([2, 4, 8, 3]), strict=False)]
)
def test_every_content_loss_trains_at_every_scale(content: str, scale: int) -> None:
    if content in ("lpips", "dists"):
        pytest.skip("needs a network of its own; see tests/losses")
    loss = instantiate(
        composed(f"content={content}", f"scale={scale}", "loss=srresnet_mse").loss.content, _convert_="all"
    )
    step = make_step(loss, scale)
    before = weights(step.generator)
    sides = Pair(torch.rand(2, 3, 12, 12), torch.rand(2, 3, 12 * scale, 12 * scale))
    values = [step(sides, done, logging=True) for done in range(2)]
    assert moved(before, step.generator)
    assert all(value.isfinite() for figures in values for value in figures.values())


def mix(feature_matching: float = 0.0, **options: object) -> LossMix:
    cfg = composed("adversarial=hinge")
    weights = {"mse": 4.0, "l1": 1.0, "adversarial": 0.5, "feature_matching": feature_matching}
    return LossMix(
        {"mse": MSELoss(), "l1": L1Loss()}, weights,
        instantiate(cfg.adversarial), **options,
    )  # fmt: skip


def judge_of(name: str = "patch") -> nn.Module:
    torch.manual_seed(1)
    small = SMALL.get(name, ("discriminator.channels=2",))
    return instantiate(composed(f"discriminator={name}", *small).discriminator)


def test_feature_matching_counts_neither_as_content_nor_for_a_share() -> None:
    loss = mix(feature_matching=1e4, balance={"adversarial": 0.3})
    step = make_step(loss, 2, judge_of())
    step.discriminator_optimizer.param_groups[0]["lr"] = 0.0
    for done in range(12):
        values = step(batch(2), done, logging=True)
    adversarial, matching = (float(values[f"grad_at_sr/{name}"]) for name in ("adversarial", "feature_matching"))
    assert matching > 100 * adversarial
    assert float(values["train/content_to_adversarial"]) == pytest.approx(1 / 0.3, rel=0.15)


def test_balance_holds_gradients_at_shares_of_the_others_whatever_the_scale_and_goes_on_after_a_resume() -> None:
    shares = {"adversarial": 0.3, "l1": 0.1}
    loss = mix(balance=shares)
    step = make_step(loss, 2, judge_of())
    step.discriminator_optimizer.param_groups[0]["lr"] = 0.0  # so that gradients stay alike
    for done in range(12):
        if done == 11:
            saved = {key: value.clone() for key, value in loss.state_dict().items()}
        values = step(batch(2), done, logging=True)
    for name, share in shares.items():
        ratio = float(values[f"grad_at_sr/{name}"] / values["grad_at_sr/mse"])
        assert ratio == pytest.approx(share, rel=0.1)
    assert float(values["train/content_to_adversarial"]) == pytest.approx(1 / 0.3, rel=0.15)
    resumed = mix(balance=shares)
    resumed.load_state_dict(saved)
    gradients = {name: torch.rand(1, 3, 8, 8) for name in ("mse", "l1", "adversarial")}
    twin = mix(balance=shares)
    twin.load_state_dict(saved)
    assert resumed.weigh(gradients) == twin.weigh(gradients) != mix(balance=shares).weigh(gradients)


def test_the_adversarial_weight_rises_along_its_ramp_by_the_step_of_the_phase() -> None:
    step = make_step(mix(ramp=10), 2, judge_of())
    found = [float(step(batch(2), done, logging=True)["weight/adversarial"]) for done in (0, 4, 9, 50)]
    assert found == pytest.approx([0.05, 0.25, 0.5, 0.5])


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_batch_in_parts_gives_the_gradient_of_the_whole(adversarial: bool) -> None:
    loss: Callable[[], LossMix] = mix if adversarial else lambda: LossMix({"mse": MSELoss()}, {"mse": 1.0})
    found: list[tuple[list[Tensor], dict[str, Tensor]]] = []
    for parts in (1, 2, 4):
        judge = judge_of().eval() if adversarial else None  # its spectral norms would move with each pass
        step = make_step(loss(), 2, judge, accumulate=parts)
        step.optimizer = torch.optim.SGD(step.generator.parameters(), 0.1)
        if judge is not None:
            step.discriminator_optimizer = torch.optim.SGD(judge.parameters(), 0.1)
        values = step(batch(2), 0, logging=True)
        found.append((weights(step.generator) + (weights(judge) if judge else []), values))
    for other, values in found[1:]:
        for mine, theirs in zip(other, found[0][0], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
        assert float(values["train/loss"]) == pytest.approx(float(found[0][1]["train/loss"]), rel=1e-4)


def test_each_network_may_learn_from_its_own_half_of_the_batch() -> None:
    seen: dict[str, list[int]] = {"generator": [], "discriminator": []}
    judge = judge_of()
    step = make_step(mix(), 2, judge, separate_batches=True)
    whole = batch(2, 6)
    step.generator.register_forward_pre_hook(lambda _, inputs: seen["generator"].append(first_of(inputs[0], whole.lr)))
    found: list[Tensor] = []
    forward = judge.with_features
    judge.with_features = lambda images: (found.append(images), forward(images))[1]
    step(whole, 0, logging=False)
    assert seen["generator"] == [0, 3]  # SR for the discriminator, then the generator's own
    assert torch.equal(found[0], whole.hr[:3]) and len(found[1]) == 3


def first_of(part: Tensor, whole: Tensor) -> int:
    return next(index for index, image in enumerate(whole) if torch.equal(image, part[0]))


def test_a_critic_learns_at_every_step_the_generator_and_its_average_at_every_fifth() -> None:
    cfg = composed("adversarial=wasserstein")
    loss = LossMix({"mse": MSELoss()}, {"mse": 1.0, "adversarial": 1e-3}, instantiate(cfg.adversarial))
    step = make_step(loss, 2, judge_of())
    step.ema = EMA(copy.deepcopy(step.generator), step.generator, 0.999)
    learned, averages = list[tuple[bool, bool]](), list[Tensor]()
    for done in range(10):
        before = weights(step.generator), weights(step.discriminator)
        step(batch(2), done, logging=False)
        learned.append((moved(before[0], step.generator), moved(before[1], step.discriminator)))
        averages.append(step.ema.average.tail.weight.detach().clone())
        if done == 4:
            assert torch.equal(averages[4], step.generator.tail.weight), "the first average is a copy"
    assert learned == ([(False, True)] * 4 + [(True, True)]) * 2
    assert [i for i in range(1, 10) if not torch.equal(averages[i], averages[i - 1])] == [4, 9]
