"""Generators on the Hugging Face Hub: what is saved is what is loaded, and nothing else is."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.models.generators import Compact

hub = pytest.importorskip("srgan.inference.hub", reason="needs huggingface_hub")


def test_a_folder_and_a_repository_give_the_generator_again(
    save_compact: Callable[..., Compact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "tiny.safetensors"
    generator, description = save_compact(weights), checkpoints.describe(weights)
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
        assert again.description == description and description["about"] == {"data": "noise"}
        assert not again.generator.training
    assert asked == [("me/tiny", "model.safetensors", "v1")]
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == description["generator"], (
        "no path of the machine"
    )
    assert "srgan" in (tmp_path / "saved" / "README.md").read_text()


def test_a_folder_with_a_pickle_is_refused_and_nothing_in_it_executed(tmp_path: Path, trap: object) -> None:
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(trap))
    with pytest.raises(UserError, match="not weights exported by srgan"):
        hub.HubGenerator.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights .*model.safetensors"):
        hub.HubGenerator.from_pretrained(tmp_path)
