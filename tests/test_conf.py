"""Every option in conf/ composes, names what exists, and takes only the keys it knows."""

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from srgan import config, config_checks, weights
from srgan.errors import UserError
from srgan.models import checkpoints

Compose = Callable[..., DictConfig]

EVALUATION = ("benchmark", "reference")  # groups of evaluate.yaml; the others are of train.yaml
PAPER_LOSSES = ("srresnet_mse", "srresnet_vgg22", "srgan_mse", "srgan_vgg22", "srgan_vgg54")
EXPERIMENTS = config.GROUPS["experiment"]
OF_ONE_GAN = {"gan", "projected", "realworld", "keras", "ablation"}  # in the names of experiments about one GAN loss
TAKES_EVERY_LOSS = [name for name in EXPERIMENTS if not OF_ONE_GAN & {*name.split("_")}]


def check_and_resolve(composed: DictConfig) -> None:
    config_checks.check(composed)
    for _, node in config_checks.targets(composed):
        assert callable(get_object(node["_target_"]))


def root(experiment: str) -> list[str]:
    """The folder of images that an experiment needs to compose."""
    return ["data.root=photos"] if experiment.startswith(("photos_", "ablation_")) else []


def test_every_option_of_a_training_binds_to_its_target(compose_config: Compose) -> None:
    """Options of different groups are tried together; each loss and each experiment, which choose others, alone."""
    needed = {
        "data=folder": ["data.root=photos"],
        "data=shards": ["data.root=photos"],
        "data=pairs": ["data.hr=h", "data.lr=l"],
    }
    groups = [group for group in config.GROUPS if group not in (*EVALUATION, "experiment", "loss")]
    for options in zip_longest(*(config.GROUPS[group] for group in groups)):
        chosen = {group: option for group, option in zip(groups, options, strict=True) if option is not None}
        overrides = [f"{group}={option}" for group, option in chosen.items()]
        check_and_resolve(
            compose_config(
                *overrides,
                f"content@loss.gan={chosen['content']}",
                *needed.get(f"data={chosen.get('data')}", []),
            )
        )
    for loss in config.GROUPS["loss"]:
        check_and_resolve(compose_config(f"loss={loss}"))
    for experiment in EXPERIMENTS:
        check_and_resolve(compose_config(f"experiment={experiment}", *root(experiment)))
    assert {"celeba_x4", "demo"} <= set(EXPERIMENTS) and "shared" not in config.GROUPS["data"]


def test_an_experiment_takes_the_weights_it_starts_from(compose_config: Compose) -> None:
    """Those it names itself, and those that its comment asks for."""
    starts = dict.fromkeys(["photos_gan_x4", "photos_projected_x4", "ablation_x4"], "srresnet_small_x4")
    for experiment in EXPERIMENTS:
        composed = compose_config(f"experiment={experiment}", *root(experiment))
        start = composed.init_from or starts.get(experiment)
        if start is not None:
            assert checkpoints.initial_state(weights.find(start), instantiate(composed.generator))
            starts[experiment] = start
    assert {"faces_x4", "faces_gan_x4"} <= set(starts)


def test_every_option_of_an_evaluation_binds_to_its_target(compose_config: Compose) -> None:
    def evaluation(*overrides: str) -> DictConfig:
        return compose_config(*overrides, command="evaluate")

    for chosen in ("benchmark=folder", "benchmark=celeba", "benchmark=split data=photos", "reference=paper"):
        composed = evaluation(*chosen.split(), "scale=3")
        config_checks.check_targets(composed)
        assert next(path for path, _ in config_checks.targets(composed)) in ("benchmark", "data")
        assert composed.benchmark.get("data", composed.benchmark).degradation.scale == 3
    celeba = evaluation("benchmark=celeba").benchmark
    assert (celeba.split, celeba.images) == ("test", None)
    faces = evaluation("benchmark=faces_x8")
    assert faces.scale == faces.benchmark.data.degradation.scale == faces.reference.scale == 8
    assert evaluation("benchmark=faces_x8", "reference=paper", "protocols=[rgb]").reference.scale == 4


def test_the_papers_losses_are_what_their_names_say(compose_config: Compose) -> None:
    weights = {}
    for loss in PAPER_LOSSES:
        built = instantiate(compose_config(f"loss={loss}", "vgg=random").loss, _convert_="all")
        weights[loss] = [None if part is None else part.weights for part in (built["content"], built["gan"])]
    mse, gan = {"mse": 4.0}, {"adversarial": 1e-3}
    assert weights == {
        "srresnet_mse": [mse, None],
        "srresnet_vgg22": [{"vgg22": 1.0, "total_variation": 2e-8}, None],
        "srgan_mse": [mse, mse | gan],
        "srgan_vgg22": [mse, {"vgg22": 1.0} | gan],
        "srgan_vgg54": [mse, {"vgg54": 1.0} | gan],
    }


@pytest.mark.parametrize("loss", ["srresnet_vgg22", "srgan_vgg54"])
def test_an_experiment_takes_a_loss_of_either_kind(loss: str, compose_config: Compose) -> None:
    expected = compose_config(f"loss={loss}").loss
    for experiment in TAKES_EVERY_LOSS:
        composed = compose_config(f"experiment={experiment}", f"loss={loss}", "content=mse", "adversarial_weight=1e-3")
        config_checks.check_targets(composed.loss)
        for part in ("content", "gan"):  # each node by itself, since interpolations lead out of it
            assert composed.loss[part] == expected[part]


def test_losses_are_chosen_apart(compose_config: Compose) -> None:
    loss = compose_config("loss=srgan_vgg22", "content=l1", "content@loss.gan=l1_vgg", "adversarial_weight=0.2").loss
    assert list(loss.content.weights) == ["l1"]
    assert dict(loss.gan.weights) == {
        "l1": 1.0,
        "vgg": 1.0,
        "grid": 1e3,
        "adversarial": 0.2,
        "feature_matching": 0.0,
    }
    views = compose_config("loss=srresnet_mse", "content=l1_vgg_views").loss.content
    assert views.content.vgg.random_views and views.content.vgg.normalize


def test_celeba_x4_is_the_papers_recipe(compose_config: Compose) -> None:
    composed = compose_config("experiment=celeba_x4")
    content, gan = composed.phases.content, composed.phases.gan
    assert (content.steps, gan.steps) == (1_000_000, 200_000)
    assert content.optimizer.lr == gan.optimizer.lr == 1e-4
    assert content.optimizer.betas[0] == 0.9 and content.optimizer.fused is None
    assert (composed.batch_size, composed.data.crop, composed.scale) == (16, 96, 4)
    assert (composed.generator.blocks, composed.generator.channels) == (16, 64)
    assert (composed.discriminator.channels, composed.discriminator.hidden) == (64, 1024)
    assert composed.loss.gan.weights.adversarial == 1e-3
    assert "wandb" in composed.logger


def test_a_slurm_job_says_how_many_processes_there_are(
    compose_config: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}.items():
        monkeypatch.setenv(name, value)
    composed = compose_config("trainer=slurm", "experiment=celeba_x4")
    assert (composed.trainer.devices, composed.trainer.num_nodes, composed.ckpt_path) == (4, 2, "auto")
    assert composed.trainer.val_check_interval == 5000


def test_the_command_line_overrides_the_experiment_and_one_value_reaches_all(compose_config: Compose) -> None:
    chosen = ("loss=srgan_mse", "scale=2", "batch_size=3", "seed=7", "trainer.max_steps=500", "trainer=fast")
    composed = compose_config("experiment=celeba_x4", *chosen)
    assert composed.scale == composed.data.degradation.scale == composed.generator.scale == 2
    assert (composed.data.batch_size, composed.data.seed, composed.trainer.max_steps) == (3, 7, 500)
    assert list(composed.loss.gan.content) == ["mse"]
    assert composed.training.cuda_graph and composed.trainer.benchmark
    assert composed.phases.content.optimizer.fused and composed.phases.gan.optimizer.fused
    fast = compose_config("experiment=demo", "trainer=fast", "training.cuda_graph=false")
    assert fast.phases.gan.optimizer.fused and not fast.training.cuda_graph and fast.phases.gan.steps == 200


@pytest.mark.parametrize(
    ("target", "key", "value", "expected"),
    [
        ("lightning.Trainer", "max_steps", "abc", "a whole number"),
        ("lightning.Trainer", "max_steps", 1e5, None),
        ("lightning.Trainer", "val_check_interval", 0.5, None),
        ("lightning.Trainer", "deterministic", 3, "text or true or false or null"),
        ("srgan.data.datamodule.Folder", "resize", [96, "abc"], r"a whole number"),
        ("srgan.data.datamodule.Folder", "resize", None, None),
        ("srgan.data.datamodule.Folder", "root", 20240105, "text"),
        ("srgan.data.datamodule.Folder", "root", None, "text"),
        ("srgan.models.generators.Compact", "channels", True, "a whole number"),
        ("srgan.models.generators.Compact", "channels", 1.5, "a whole number"),
        ("torch.optim.Adam", "lr", "fast", "a number"),
        ("torch.optim.Adam", "lr", 1, None),
        ("torch.optim.Adam", "betas", [0.9, 0.999], None),
    ],
)
def test_a_value_of_another_type_is_named(target: str, key: str, value: object, expected: str | None) -> None:
    made = OmegaConf.create({"part": {"_target_": target, key: value}})
    if expected is None:
        config_checks.check_targets(made)
    else:
        with pytest.raises(UserError, match=rf"^part.{key}.*: expected {expected}$"):
            config_checks.check_targets(made)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("torch.optim.AdamX", "module 'torch.optim' has no attribute 'AdamX'|No module named 'torch.optim.AdamX'"),
        ("torch.optim", ".* is not a callable object"),
        ("no.such.module", "No module named 'no'"),
        ("", "Empty path"),
    ],
)
def test_a_target_that_is_not_there_is_named(target: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    made = OmegaConf.create({"part": {"_target_": target}})
    said = rf"^part\._target_={target}: not a class or function that can be loaded \(({reason})\)$"
    with pytest.raises(UserError, match=said):
        config_checks.check_targets(made)
    assert not caplog.text


def test_an_experiment_sets_only_what_there_is(compose_config: Compose, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nbatchsize: 3\n")
    with pytest.raises(ConfigCompositionException, match="batchsize"):
        compose_config("experiment=mine", f"hydra.searchpath=[file://{tmp_path}]")
