"""Devices, precision, memory used, and torch hub's folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srgan import machine
from srgan.errors import UserError

CPU = torch.device("cpu")


def test_auto_is_the_fastest_there_is_and_emulated_bf16_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    for asked, cuda, bf16, chosen, warnings in (
        (("auto", "auto"), True, True, ("cuda", "32-true"), 0),  # that GPU only emulates bf16
        (("auto", "auto"), False, True, ("cpu", "bf16-mixed"), 0),
        (("auto", "auto"), False, False, ("cpu", "32-true"), 0),
        (("gpu", "32-true"), True, False, ("gpu", "32-true"), 0),
        (("cpu", "32-true"), True, True, ("cpu", "32-true"), 0),
        (("cpu", "bf16-mixed"), True, True, ("cpu", "bf16-mixed"), 0),
        (("cpu", "bf16-mixed"), True, False, ("cpu", "bf16-mixed"), 1),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda value=cuda: value)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda value=bf16: value)
        caplog.clear()
        assert machine.choose(*asked) == chosen
        assert caplog.text.count("emulated") == warnings


def test_what_the_machine_has_not_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.choose_device("auto") == machine.choose_device("cpu") == CPU
    for choose, arguments, words in (
        (machine.choose, ("tpu", "auto"), "trainer.accelerator=tpu: expected auto, cpu, gpu or cuda"),
        (machine.choose, ("gpu", "auto"), "trainer.accelerator=gpu, but torch .* no CUDA device; use trainer=cpu"),
        (machine.choose, ("cpu", "16-mixed"), "trainer.precision=16-mixed: expected auto, bf16-mixed or 32-true"),
        (machine.choose_device, ("quantum", "--device"), "--device=quantum: expected auto, cpu, cuda, cuda:1 or"),
        (machine.choose_device, ("cuda:1",), "device=cuda:1, but torch .* no CUDA device; use device=cpu"),
        (machine.choose_device, ("meta",), "device=meta can't be used (.+); use device=cpu"),
        (machine.choose_device, ("xla",), "device=xla can't be used (.+); use device=cpu"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            choose(*arguments)
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
print(machine.peak_mib(cpu) - before)
"""


@pytest.mark.skipif(not os.access(machine.PROCESS / "clear_refs", os.W_OK), reason="needs /proc of Linux")
def test_the_peak_counts_what_was_used_since_the_reset() -> None:
    # In a process of its own: a long one may take the memory out of what it freed before and still holds.
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert 190 < float(done.stdout) < 300


def test_where_the_system_tells_nothing_the_peak_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROCESS", tmp_path)
    machine.reset_peak(CPU)
    assert machine.peak_mib(CPU) is None
