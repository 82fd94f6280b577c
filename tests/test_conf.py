"""Every option in conf/ composes, names what exists, and takes only the keys it knows."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from srgan import config
from srgan.errors import UserError

EVALUATION = ("benchmark", "reference")  # groups of evaluate.yaml; the others are of train.yaml
OPTIONS = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(config.CONF.glob("*/*.yaml"))
    if path.parent.name not in ("experiment", *EVALUATION)
]
EXPERIMENTS = [path.stem for path in sorted(config.CONF.glob("experiment/*.yaml"))]
PAPER_LOSSES = ["srresnet_mse", "srresnet_vgg22", "srgan_mse", "srgan_vgg22", "srgan_vgg54"]


def test_the_options_are_found() -> None:
    assert {"loss=srgan_vgg54", "data=celeba", "generator=compact", "trainer=gpu"} <= set(OPTIONS)
    assert {"celeba_x4", "demo"} <= set(EXPERIMENTS)


@pytest.mark.parametrize("option", [*OPTIONS, *(f"experiment={name}" for name in EXPERIMENTS)])
def test_every_option_binds_to_its_target(option: str, compose_config: Callable[..., DictConfig]) -> None:
    needs_root = option in ("data=folder", "experiment=photos_x4")
    composed = compose_config(option, *(["data.root=photos"] if needs_root else []))
    config.check(composed)
    for _, node in config.targets(composed):
        assert callable(get_object(node["_target_"]))


def compose_evaluation(*overrides: str) -> DictConfig:
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        return compose("evaluate", overrides=list(overrides))


EVALUATIONS = [
    f"{path.parent.name}={path.stem}" for g in EVALUATION for path in sorted(config.CONF.glob(f"{g}/*.yaml"))
]


@pytest.mark.parametrize("option", EVALUATIONS)
def test_every_option_of_an_evaluation_binds_to_its_target(option: str) -> None:
    assert {"benchmark=folder", "benchmark=celeba", "benchmark=split", "reference=paper"} <= set(EVALUATIONS)
    composed = compose_evaluation(option, *(["data=photos"] if option == "benchmark=split" else []))
    config.check_targets(composed)
    assert next(path for path, _ in config.targets(composed)) in ("benchmark", "data")
    for _, node in config.targets(composed):
        assert callable(get_object(node["_target_"]))


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_scale_reaches_a_benchmark_from_one_place(scale: int) -> None:
    assert compose_evaluation(f"scale={scale}").benchmark.degradation.scale == scale
    assert compose_evaluation("benchmark=celeba", f"scale={scale}").benchmark.data.degradation.scale == scale


def test_an_evaluation_of_celeba_is_of_its_whole_test_split() -> None:
    benchmark = compose_evaluation("benchmark=celeba").benchmark
    assert (benchmark.split, benchmark.images) == ("test", None)


@pytest.mark.parametrize("override", ["benchmark.rot=x", "modles=[]", "protocol=paper", "benchmark=nix"])
def test_a_mistyped_override_of_an_evaluation_does_not_compose(override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        compose_evaluation(override)


def test_a_mistyped_key_of_a_benchmark_is_named_with_a_hint() -> None:
    for override, hint in (
        ("+benchmark.imges=3", "did you mean images"),
        ("+benchmark.degradation.blur=1", "blur_sigma"),
    ):
        with pytest.raises(UserError, match=hint):
            config.check_targets(compose_evaluation(override))


def test_a_value_that_is_needed_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"data.root is needed: give data.root=VALUE"):
        config.check_targets(compose_evaluation("benchmark=split", "data=folder"))


@pytest.mark.parametrize("loss", PAPER_LOSSES)
def test_the_papers_losses_build(loss: str, compose_config: Callable[..., DictConfig]) -> None:
    composed = compose_config(f"loss={loss}", "vgg_weights=random")
    built = instantiate(composed.loss, _convert_="all")
    assert (built["gan"] is not None) == loss.startswith("srgan")
    main = built["gan"] or built["content"]
    assert set(main.weights) >= {"adversarial"} if loss.startswith("srgan") else "adversarial" not in main.weights


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("loss", PAPER_LOSSES)
def test_every_experiment_takes_every_loss(
    experiment: str, loss: str, compose_config: Callable[..., DictConfig]
) -> None:
    composed = compose_config(f"experiment={experiment}", f"loss={loss}")
    assert composed.loss == compose_config(f"loss={loss}").loss


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_scale_reaches_data_and_generator_from_one_place(scale: int, compose_config: Callable[..., DictConfig]) -> None:
    composed = compose_config("experiment=celeba_x4", f"scale={scale}")
    assert composed.data.degradation.scale == composed.generator.scale == scale


def test_celeba_x4_is_the_papers_recipe(compose_config: Callable[..., DictConfig]) -> None:
    composed = compose_config("experiment=celeba_x4")
    content, gan = composed.phases.content, composed.phases.gan
    assert (content.steps, gan.steps) == (1_000_000, 200_000)
    assert content.optimizer.lr == gan.optimizer.lr == 1e-4
    assert content.optimizer.betas[0] == 0.9
    assert (composed.batch_size, composed.data.crop, composed.scale) == (16, 96, 4)
    assert composed.loss.gan.weights.adversarial == 1e-3
    assert "wandb" in composed.logger


def test_the_command_line_overrides_the_experiment(compose_config: Callable[..., DictConfig]) -> None:
    composed = compose_config("experiment=celeba_x4", "loss=srgan_mse", "scale=2", "trainer.max_steps=500")
    assert (composed.scale, composed.trainer.max_steps) == (2, 500)
    assert "mse" in composed.loss.gan.content
    assert "vgg22" not in composed.loss.gan.content


@pytest.mark.parametrize("override", ["tariner.max_steps=5", "trainer.max_stepz=5", "data.rot=x", "loss=srgan_vgg55"])
def test_a_mistyped_override_does_not_compose(override: str, compose_config: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigCompositionException):
        compose_config(override)


def test_a_mistyped_top_level_key_in_an_experiment_does_not_compose(
    compose_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nbatchsize: 3\n")
    with pytest.raises(Exception, match="batchsize"):
        compose_config("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")


@pytest.mark.parametrize(
    ("node", "key", "hint"),
    [
        ("trainer", "max_stepz", "did you mean max_steps"),
        ("data", "corp", "did you mean crop"),
        ("generator", "blokcs", "did you mean blocks"),
        ("phases.content.optimizer", "betaz", "did you mean betas"),
        ("loss.content.content.mse", "qqq", "it takes"),
    ],
)
def test_a_mistyped_nested_key_is_named_with_a_hint(
    node: str, key: str, hint: str, compose_config: Callable[..., DictConfig]
) -> None:
    composed = compose_config()
    OmegaConf.update(composed, f"{node}.{key}", 1, force_add=True)
    with pytest.raises(UserError, match=f"{node}.{key}.*{hint}"):
        config.check(composed)
