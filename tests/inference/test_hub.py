"""Generators on the Hugging Face Hub: what is saved and pushed is what is loaded, and nothing else is."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.models.generators import Compact

hub = pytest.importorskip("srgan.inference.hub", reason="needs huggingface_hub")

NODE = {"_target_": "srgan.models.generators.Compact", "scale": 2, "channels": 4, "blocks": 1}
LR = torch.rand(1, 3, 5, 6)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    generator = Compact(2, channels=4, blocks=1)
    nn.init.normal_(generator.tail.weight)
    checkpoints.save_weights(tmp_path / "tiny.safetensors", generator, NODE, {"data": "noise"})
    return tmp_path / "tiny.safetensors"


def test_a_saved_folder_gives_the_generator_again(tmp_path: Path, weights: Path) -> None:
    hub.HubGenerator(weights).save_pretrained(tmp_path / "saved")
    again = hub.HubGenerator.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(LR), checkpoints.load(weights)(LR))
    assert again.description == {"generator": NODE, "about": {"data": "noise"}}
    assert not again.generator.training
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == NODE, "no path of the machine"
    assert "srgan" in (tmp_path / "saved" / "README.md").read_text()


def test_pushing_uploads_the_same_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, Any] = {}

    class Api:
        def __init__(self, token: object = None) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> Any:
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Path, **_: object) -> str:
            uploaded[repo_id] = checkpoints.load(Path(folder_path) / hub.FILE)(LR)
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    hub.HubGenerator(weights).push_to_hub("me/tiny")
    assert torch.equal(uploaded["me/tiny"], checkpoints.load(weights)(LR))


def test_a_repository_is_asked_for_its_safetensors_only(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str, **options: object) -> str:
        asked.append((repo_id, filename))
        assert options["revision"] == "v1"
        return str(weights)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    loaded = hub.HubGenerator._from_pretrained(model_id="me/tiny", revision="v1", map_location="cpu")
    assert asked == [("me/tiny", "model.safetensors")]
    assert torch.equal(loaded(LR), checkpoints.load(weights)(LR))


def test_a_folder_with_a_pickle_is_refused_and_nothing_in_it_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "saved").mkdir()
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / "saved" / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="not weights exported by srgan"):
        hub.HubGenerator.from_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights .*model.safetensors"):
        hub.HubGenerator.from_pretrained(tmp_path / "saved")
    assert not (tmp_path / "executed").exists()
