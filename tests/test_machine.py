"""Devices, precision, memory used, and torch hub's folder."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srgan import machine
from srgan.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device without bf16 arithmetic."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)


def test_auto_takes_cuda_if_there_and_bf16_where_it_is_computed(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.choose("auto", "auto") == ("cuda", "32-true")  # it only emulates bf16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for bf16, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda value=bf16: value)
        assert machine.choose("auto", "auto") == ("cpu", precision)


@pytest.mark.parametrize("bf16", [True, False])
def test_what_is_asked_for_is_taken_with_a_warning_about_emulated_bf16(
    cuda: None, monkeypatch: pytest.MonkeyPatch, bf16: bool, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    assert machine.choose("cpu", "32-true") == ("cpu", "32-true")
    assert machine.choose("gpu", "32-true") == ("gpu", "32-true")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        assert machine.choose("cpu", "bf16-mixed") == ("cpu", "bf16-mixed")
    assert ("emulated" in caplog.text) is not bf16


@pytest.mark.parametrize(
    ("accelerator", "precision", "words"),
    [
        ("tpu", "auto", "trainer.accelerator=tpu: expected auto, cpu, gpu or cuda"),
        ("cuda", "auto", "trainer.accelerator=cuda, but torch .* finds no CUDA device; use trainer=cpu"),
        ("gpu", "auto", "no CUDA device"),
        ("cpu", "16-mixed", "trainer.precision=16-mixed: expected auto, bf16-mixed or 32-true"),
    ],
)
def test_a_trainer_the_machine_has_not_is_refused(no_cuda: None, accelerator: str, precision: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        machine.choose(accelerator, precision)


def test_a_device_is_chosen_by_name_or_refused_in_one_line(no_cuda: None) -> None:
    assert machine.choose_device("auto") == machine.choose_device("cpu") == CPU
    for name, words in (
        ("quantum", "--device=quantum: expected auto, cpu, cuda, cuda:1 or another of torch's devices"),
        ("cuda", "--device=cuda, but torch .* finds no CUDA device; use --device=cpu"),
        ("cuda:1", "--device=cuda:1, but torch .* finds no CUDA device"),
        ("meta", "--device=meta can't be used (.+); use --device=cpu"),
        ("xla", "--device=xla can't be used (.+); use --device=cpu"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            machine.choose_device(name, "--device")
        assert "\n" not in str(raised.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_auto_is_cuda_and_the_peak_is_that_of_tensors() -> None:
    device = machine.choose_device("auto")
    assert device.type == "cuda"
    with pytest.raises(UserError, match="device=cuda:99 can't be used"):
        machine.choose_device("cuda:99")
    machine.reset_peak(device)
    before = machine.peak_mib(device)
    used = torch.ones(200 * 2**20, dtype=torch.uint8, device=device)
    del used
    after = machine.peak_mib(device)
    assert before is not None and after is not None and after - before == pytest.approx(200, abs=3)


def test_the_environment_moves_torch_hubs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert machine.torch_hub_file("vgg.pth") == tmp_path / "hub/checkpoints/vgg.pth"


MEASURE = """
import torch
from srgan import machine

cpu = torch.device("cpu")
large = torch.ones(600 * 2**20, dtype=torch.uint8)
del large  # what was used before the reset must not count
machine.reset_peak(cpu)
before = machine.peak_mib(cpu)
used = torch.ones(200 * 2**20, dtype=torch.uint8)
del used
after = machine.peak_mib(cpu)
machine.reset_peak(cpu)
print(before, after, machine.peak_mib(cpu))
"""


@pytest.mark.skipif(not os.access(machine.PROCESS / "clear_refs", os.W_OK), reason="needs /proc of Linux")
def test_the_peak_counts_what_was_used_since_the_reset() -> None:
    # In a process of its own: a long one may take the memory out of what it freed before and still holds.
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    before, after, reset = (float(number) for number in done.stdout.split())
    assert 190 < after - before < 300
    assert abs(reset - before) < 50


def test_where_the_system_tells_nothing_the_peak_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROCESS", tmp_path)
    machine.reset_peak(CPU)
    assert machine.peak_mib(CPU) is None
