"""Several processes: gradients and BN statistics are averaged, all share a folder, and one that fails ends all."""

import copy
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from srgan.training import processes
from srgan.training.processes import average


def test_gradients_and_bn_statistics_are_averaged_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    here = nn.Sequential(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(4), nn.PReLU())
    there = copy.deepcopy(here)
    for network in (here, there):
        network(torch.rand(2, 3, 5, 6)).square().mean().backward()
    here[2].weight.grad = there[2].weight.grad = None  # a part that no loss reached
    before = [seen(network) for network in (here, there)]
    flags = [torch.tensor(value) for value in (1.0, 0.0)]  # all is finite here, not there
    sums: list[Tensor] = []

    def all_reduce(flat: Tensor) -> None:
        sums.append(flat.clone())
        if len(sums) == 2:
            flat += sums[0]

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    average(there, flags[1])
    average(here, flags[0])
    assert float(flags[0]) == 0.5
    (weights, averaged), (_, theirs) = before
    assert all(torch.equal(now, value) for now, value in zip(here.parameters(), weights, strict=True))
    assert here[2].weight.grad is None
    for now, *values in zip(seen(here)[1], averaged, theirs, strict=True):
        torch.testing.assert_close(now, sum(values) / 2)


def seen(network: nn.Sequential) -> tuple[list[Tensor], list[Tensor]]:
    """Copies of the weights; of the gradients and of BN's statistics."""
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    statistics = [network[1].running_mean.clone(), network[1].running_var.clone()]
    return [p.detach().clone() for p in network.parameters()], gradients + statistics


@pytest.mark.parametrize("released", [True, False])
def test_after_the_training_the_others_may_end_first(released: bool) -> None:
    """Lightning's watch kills the first process when another one ends with an error; here a stand-in for it."""
    first = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = subprocess.Popen([sys.executable, "-c", "raise SystemExit(130)"])
    watch = processes._ChildProcessObserver(first.pid, [other], sleep_period=1)
    watch.start()
    if released:
        processes.release()
    watch.join(timeout=30)
    other.wait()
    if released:
        assert first.poll() is None
        first.kill()
    assert first.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "words"), [("raise", "no memory left, for example"), ("kill", "code -9|remote worker")]
)
def test_a_process_that_fails_or_is_killed_within_a_step_ends_them_all(
    action: str, words: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    arguments = [override for override in tiny if not override.startswith("discriminator")]
    arguments += ["generator=compact", "loss=srresnet_mse", "trainer.devices=2", "trainer.max_steps=20"]
    arguments += ["+callbacks.harm._target_=harm.Harm", f"+callbacks.harm.action={action}"]
    command = [sys.executable, "-m", "srgan.train", *arguments, "hydra.run.dir=out"]
    # Processes that waited for one another would do so for half an hour.
    done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, None)
    assert re.search(words, done.stdout + done.stderr)  # of a kill, the launcher's or gloo's, whichever is first


def test_the_first_process_says_which_run_it_is_and_leaves_nothing_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", processes.ARGUMENTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")  # the user's
    with processes.leading(["seed=2", "hydra.run.dir='a b'"], "hydra.sweep.dir=s"):
        os.environ |= {"LOCAL_RANK": "0", "MASTER_PORT": "2"}  # as Lightning does before it starts the others
        told = processes.following(["-m", "seed=1,2"])
    assert told == ["seed=2", "hydra.run.dir='a b'", *processes.WRITE_NOTHING]
    assert (os.environ["MASTER_PORT"], "LOCAL_RANK" in os.environ) == ("1", False)
    assert processes.following(["seed=1"]) == ["seed=1", *processes.WRITE_NOTHING]  # started by srun


def test_processes_of_torchrun_take_the_first_ones_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    store = torch.distributed.HashStore()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(processes, "_stores", [])
    for _ in range(2):  # runs of a sweep, which the others begin by themselves
        with processes.leading(["seed=2", "hydra.run.dir=r"], "hydra.sweep.dir=s"):
            pass
    assert processes.following(["-m", "seed=1,2"]) == ["-m", "seed=1,2", "hydra.sweep.dir=s", *processes.WRITE_NOTHING]
