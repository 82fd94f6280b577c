"""The names of all logged values. Training writes them; the report and the dashboard read them.

Losses need no entry here: `loss` and `gradient_at_sr` make their names from their keys in the configuration.
"""

TRAINING_PREFIX, VALIDATION_PREFIX, TEST_PREFIX = "train/", "val/", "test/"
LOSS_PREFIX, WEIGHT_PREFIX, GRADIENT_AT_SR_PREFIX = "loss/", "weight/", "grad_at_sr/"
BICUBIC_SUFFIX, GAIN_SUFFIX = "_bicubic", "_gain"

TOTAL_LOSS = TRAINING_PREFIX + "loss"  # the generator's weighted sum
DISCRIMINATOR_LOSS = TRAINING_PREFIX + "discriminator"
DISCRIMINATOR_PENALTY = TRAINING_PREFIX + "d_penalty"  # gradient penalty: R1's or WGAN-GP's
DISCRIMINATOR_ACCURACY = TRAINING_PREFIX + "d_accuracy"
REAL_LOGIT = TRAINING_PREFIX + "d_real"  # mean over HR
FAKE_LOGIT = TRAINING_PREFIX + "d_fake"  # mean over SR
LOGIT_GAP = TRAINING_PREFIX + "d_gap"  # d_real − d_fake
CONTENT_TO_ADVERSARIAL = TRAINING_PREFIX + "content_to_adversarial"  # ratio of the gradient norms at the SR image
LEARNING_RATE = TRAINING_PREFIX + "learning_rate"
IMAGES_PER_S = TRAINING_PREFIX + "images_per_s"
PEAK_MIB = TRAINING_PREFIX + "peak_mib"
GENERATOR_GRADIENT = "grad_norm/generator"
DISCRIMINATOR_GRADIENT = "grad_norm/discriminator"

# Scores of an image. In validation they get a prefix and sometimes a suffix.
PSNR, SSIM, NIQE, DISTS, GRID, COLOUR = "psnr", "ssim", "niqe", "dists", "grid", "colour"
LR_PSNR, FID = "lr_psnr", "fid"  # in evaluations only
LPIPS_NETWORKS = ("alex", "squeeze", "vgg")


def lpips(network: str) -> str:
    """LPIPS with one network. Values of different networks can't be compared, so each has its own name."""
    return f"lpips_{network}"


TITLES = {
    PSNR: "PSNR",
    SSIM: "SSIM",
    **{lpips(network): f"LPIPS ({network})" for network in LPIPS_NETWORKS},
    DISTS: "DISTS",
    NIQE: "NIQE",
    GRID: "grid",
    COLOUR: "colour drift",
    LR_PSNR: "LR-PSNR",
    FID: "FID",
}
BEST = {score: "max" if score in (PSNR, SSIM) else "min" for score in TITLES if score not in (LR_PSNR, FID)}
STEP = "trainer/global_step"  # W&B's x axis; one batch is one step, whichever networks it trains
SAMPLES, TEST_PICTURES = "samples", "test"  # pictures in W&B


def loss(name: str) -> str:
    """The unweighted value of one loss."""
    return LOSS_PREFIX + name


def weight(name: str) -> str:
    """The current weight of a loss that is balanced or ramped."""
    return WEIGHT_PREFIX + name


def gradient_at_sr(name: str) -> str:
    """The gradient norm of one weighted loss at the SR image."""
    return GRADIENT_AT_SR_PREFIX + name


def validation(score: str) -> str:
    """A score of the averaged generator on the validation images."""
    return VALIDATION_PREFIX + score


def validation_bicubic(score: str) -> str:
    """The same score of bicubic interpolation."""
    return validation(score) + BICUBIC_SUFFIX


def validation_gain(score: str) -> str:
    """The generator's score minus bicubic's."""
    return validation(score) + GAIN_SUFFIX


def test(score: str) -> str:
    """A score on the test images, at the end of a run."""
    return TEST_PREFIX + score
