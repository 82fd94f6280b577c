from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srgan.data.resize import imresize
from srgan.metrics.lpips import LPIPS, LPIPSNet, weights_file

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SET5 = SHARED / "data" / "benchmarks" / "Set5" / "x4"
TORCH_HOME = SHARED / "weights" / "torch_home"
SQUEEZE = TORCH_HOME / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"


@pytest.fixture(scope="module")
def lpips() -> Iterator[LPIPS]:
    if not SQUEEZE.is_file():
        pytest.skip(f"needs {SQUEEZE}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(TORCH_HOME))
        yield LPIPS()


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def pictures(seed: int) -> Tensor:
    return torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("net", "name"),
    [("squeeze", "squeezenet1_1-b8a52dc0.pth"), ("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")],
)
def test_without_its_weights_it_says_which_file_it_needs(
    net: LPIPSNet, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights_file(net) == tmp_path / "hub" / "checkpoints" / name
    with pytest.raises(FileNotFoundError, match=name):
        LPIPS(net)


@pytest.mark.skipif(not SET5.is_dir(), reason=f"needs {SET5}")
def test_bicubic_on_set5_is_at_a_distance_of_0_166(lpips: LPIPS) -> None:
    files = sorted((SET5 / "LR").iterdir())
    assert len(files) == 5
    values = [lpips(imresize(read(file), 4), read(SET5 / "HR" / file.name)).item() for file in files]
    assert f"{np.mean(values):.3f}" == "0.166"


def test_an_image_is_at_no_distance_from_itself(lpips: LPIPS) -> None:
    assert lpips(pictures(0), pictures(0)).tolist() == [0, 0, 0]


def test_each_image_has_its_own_distance(lpips: LPIPS) -> None:
    sr, hr = pictures(0), pictures(1)
    hr[1] = sr[1]
    together = lpips(sr, hr)
    assert together.shape == (3,)
    assert (together > 0.01).tolist() == [True, False, True]
    singly = torch.cat([lpips(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, singly)


def test_8_bit_images_and_floats_agree(lpips: LPIPS) -> None:
    sr, hr = (x.mul(255).round().to(torch.uint8) for x in (pictures(0), pictures(1)))
    assert torch.equal(lpips(sr, hr), lpips(sr / 255, hr / 255))


def test_its_network_is_frozen(lpips: LPIPS) -> None:
    parameters = list(lpips.parameters())
    assert parameters
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not lpips(pictures(0).requires_grad_(), pictures(1)).requires_grad
