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
    """A CUDA device without bf16 of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)


def cpu_has_bf16(monkeypatch: pytest.MonkeyPatch, value: bool) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: value)


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_takes_the_cpu_without_cuda_and_bf16_where_it_has_it(
    no_cuda: None, monkeypatch: pytest.MonkeyPatch, bf16: bool, precision: str
) -> None:
    cpu_has_bf16(monkeypatch, bf16)
    assert machine.choose("auto", "auto") == ("cpu", precision)


def test_auto_takes_cuda_but_no_emulated_bf16(cuda: None) -> None:
    assert machine.choose("auto", "auto") == ("cuda", "32-true")


@pytest.mark.parametrize("bf16", [True, False])
def test_what_is_asked_for_is_taken(
    cuda: None, monkeypatch: pytest.MonkeyPatch, bf16: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cpu_has_bf16(monkeypatch, bf16)
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
        ("cuda", "auto", "trainer.accelerator=cuda.*no CUDA device; use trainer=cpu"),
        ("gpu", "auto", "no CUDA device"),
        ("cpu", "16-mixed", "trainer.precision=16-mixed: expected auto, bf16-mixed or 32-true"),
    ],
)
def test_what_the_machine_has_not_is_refused(no_cuda: None, accelerator: str, precision: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        machine.choose(accelerator, precision)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_peak_is_that_of_tensors() -> None:
    device = torch.device("cuda")
    machine.reset_peak(device)
    before = machine.peak_mib(device)
    used = torch.ones(200 * 2**20, dtype=torch.uint8, device=device)
    del used
    after = machine.peak_mib(device)
    assert before is not None and after is not None and after - before == pytest.approx(200, abs=3)
