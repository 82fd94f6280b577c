"""Generators on the Hugging Face Hub: what is saved is what is loaded, and nothing else is."""

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


def test_a_folder_and_a_repository_give_the_generator_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, weights = Compact(2, channels=4, blocks=1).eval(), tmp_path / "tiny.safetensors"
    nn.init.normal_(generator.tail.weight)
    node = {"_target_": "srgan.models.generators.Compact", "scale": 2, "channels": 4, "blocks": 1}
    checkpoints.save_weights(weights, generator, node, {"data": "noise"})
    asked: list[tuple[str, str, str]] = []

    def download(repo_id: str, filename: str, *, revision: str, **_: object) -> str:
        asked.append((repo_id, filename, revision))
        return str(tmp_path / "saved" / filename)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    hub.HubGenerator(weights).save_pretrained(tmp_path / "saved")
    lr = torch.rand(1, 3, 5, 6)
    for again in (
        hub.HubGenerator.from_pretrained(tmp_path / "saved"),
        hub.HubGenerator._from_pretrained(model_id="me/tiny", revision="v1", map_location="cpu"),
    ):
        assert torch.equal(again(lr), generator(lr))
        assert again.description == {"generator": node, "about": {"data": "noise"}}
        assert not again.generator.training
    assert asked == [("me/tiny", "model.safetensors", "v1")]
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == node, "no path of the machine"
    assert "srgan" in (tmp_path / "saved" / "README.md").read_text()


def test_a_folder_with_a_pickle_is_refused_and_nothing_in_it_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="not weights exported by srgan"):
        hub.HubGenerator.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights .*model.safetensors"):
        hub.HubGenerator.from_pretrained(tmp_path)
    assert not (tmp_path / "executed").exists()
