"""Devices, precision and memory used."""

import mmap
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from srgan import machine
from srgan.errors import UserError

CPU = torch.device("cpu")


def test_auto_is_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    for asked, cuda, bf16, chosen, warnings in (
        (("auto", "auto"), True, True, ("cuda", "32-true"), 0),  # that GPU only emulates bf16
        (("auto", "auto"), False, True, ("cpu", "bf16-mixed"), 0),
        (("auto", "auto"), False, False, ("cpu", "32-true"), 0),
        (("gpu", "32-true"), True, False, ("gpu", "32-true"), 0),
        (("cpu", "bf16-mixed"), True, True, ("cpu", "bf16-mixed"), 0),
        (("cpu", "bf16-mixed"), True, False, ("cpu", "bf16-mixed"), 1),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda value=cuda: value)
        monkeypatch.setattr(machine, "has_cpu_bf16", lambda value=bf16: value)
        caplog.clear()
        assert machine.choose(*asked) == chosen
        assert caplog.text.count("emulated") == warnings


def test_a_cpu_has_bf16_if_it_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN supports bf16 on every CPU with AVX-512, and emulates it on those without its bf16 instructions."""
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for architecture, avx512_bf16, amx, expected in (
        ("x86_64", False, False, False),
        ("x86_64", True, False, True),
        ("AMD64", False, True, True),
        ("aarch64", False, False, True),
    ):
        monkeypatch.setattr("platform.machine", lambda value=architecture: value)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda value=avx512_bf16: value)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda value=amx: value)
        assert machine.has_bf16("cpu") is expected
    monkeypatch.setattr("platform.machine", lambda: "arm64")  # a Mac, for which torch has no oneDNN
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    assert machine.has_bf16("cpu") is False


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
def test_on_cuda_auto_is_cuda_and_the_peak_is_that_of_tensors() -> None:
    device = machine.choose_device("auto")
    assert device.type == "cuda"
    with pytest.raises(UserError, match="device=cuda:99 can't be used"):
        machine.choose_device("cuda:99")
    machine.reset_peak(device)
    before = machine.peak_mib(device)
    torch.ones(200 * 2**20, dtype=torch.uint8, device=device)
    after = machine.peak_mib(device)
    assert before is not None and after is not None and after - before == pytest.approx(200, abs=3)


@pytest.mark.skipif(not os.access(machine.PROCESS / "clear_refs", os.W_OK), reason="needs /proc of Linux")
def test_the_peak_counts_what_was_used_since_the_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(mib: int) -> None:
        with mmap.mmap(-1, mib * 2**20) as memory:  # from the system, and at once given back
            memory[::4096] = bytes(mib * 256)

    use(600)
    machine.reset_peak(CPU)
    before = machine.peak_mib(CPU)
    use(200)
    after = machine.peak_mib(CPU)
    assert before is not None and after is not None and after - before == pytest.approx(200, abs=20)
    monkeypatch.setattr(machine, "PROCESS", tmp_path)  # a system that tells nothing
    machine.reset_peak(CPU)
    assert machine.peak_mib(CPU) is None
