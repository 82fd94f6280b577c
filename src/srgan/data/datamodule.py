"""Lightning data modules: workers yield uint8 crops, from which pairs of LR and HR are made on the device."""

import copy
import hashlib
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from srgan.data import celeba, huggingface, pairs, shards, sources
from srgan.data.crops import (
    Augment,
    Batch,
    CropBatches,
    RandomCrops,
    StepSampler,
    WholeBatches,
    WholeImages,
    check_count,
    verify,
)
from srgan.data.degradation import Degradation
from srgan.data.faults import Faults
from srgan.errors import UserError
from srgan.files import given
from srgan.images import to_float

log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """One batch on the device: lr (B, 3, h, w) and hr (B, 3, scale · h, scale · w), float32 in [0, 1]."""

    lr: Tensor
    hr: Tensor


@dataclass
class PairMaker:
    """Makes the pair of a batch, on the device.

    A CUDA graph may replay it, with a degradation that draws nothing and that nothing else uses.

    Args:
        degradation: makes LR from HR.
        crops: whose batches may hold places of crops in a GPU's cache, cut here; whole images pass. None before setup.
    """

    degradation: Degradation
    crops: CropBatches | None

    def __call__(self, hr: Tensor, lr: Tensor | None = None, seed: int = 0) -> Pair:
        """See `ImageDataModule.pair`."""
        if self.crops is not None:
            hr, lr = self.crops.cut(hr, lr)
        with torch.autocast(hr.device.type, enabled=False):
            lr = self.degradation(hr, seed) if lr is None else lr
        lr, hr = (to_float(x).contiguous(memory_format=torch.channels_last) for x in (lr, hr))
        return Pair(lr, hr)


@dataclass(kw_only=True, eq=False)
class ImageDataModule(LightningDataModule):
    """Base class of all data modules; a subclass finds the files of the splits.

    Args:
        degradation: makes LR from HR, on the device.
        resize: (height, width) to which every image is first resized, ignoring its aspect ratio; None for no resize.
        multiscale: factors by which every training image is reduced for further copies of it; see RandomCrops.
        crop: side of a training crop in HR pixels, divisible by the scale.
        batch_size: crops per batch and process.
        seed: seed of the crops and their order.
        augment: see RandomCrops.
        cache: `ram` keeps the decoded training images in memory; `device` keeps them on the training device and
            cuts crops there, without loader processes; `none` decodes an image at each use.
        workers: number of loader processes. None means for training on a CPU one, or none with a cache, out of which
            crops are cut in no time (docs/speed.md, "On a busy machine"), or in a process of a sweep's pool. For a GPU
            it means the number of cores that this process may use minus one, at most 8; several training processes on a
            machine share them.
        validation_images, test_images: largest number of images to score, taken at even intervals; None for all.

    Raises UserError for values that can't work, naming those that can, and for missing files.
    """

    degradation: Degradation
    batch_size: int
    seed: int
    resize: list[int] | None
    multiscale: list[float]
    crop: int
    augment: Augment
    cache: Literal["none", "ram", "device"]
    workers: int | None
    validation_images: int | None
    test_images: int | None

    def __post_init__(self) -> None:
        super().__init__()
        self._train: CropBatches | None = None
        self._left_to_graph = False
        scale = self.degradation.scale
        if self.crop < 1 or self.crop % scale:
            below = max(self.crop - self.crop % scale, scale)
            raise UserError(
                f"crop {self.crop} is not divisible by scale {scale}; try data.crop={below} or {below + scale}"
            )
        if self.resize is not None and (len(self.resize) != 2 or min(self.resize) < self.crop):
            raise UserError(
                f"data.resize={list(self.resize)}: expected [height,width], both at least data.crop={self.crop}"
            )
        if not all(0 < factor < 1 for factor in self.multiscale):
            raise UserError(
                f"data.multiscale={list(self.multiscale)}: expected factors between 0 and 1, such as [0.75,0.55]"
            )
        if self.batch_size < 1:
            raise UserError(f"batch_size {self.batch_size}: expected at least 1")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"data.workers={self.workers}: expected 0 or more, or null to choose by the device")
        check_count(self.validation_images, "data.validation_images")
        check_count(self.test_images, "data.test_images")
        for key, allowed in (("cache", ("none", "ram", "device")), ("augment", ("none", "flip", "dihedral"))):
            if getattr(self, key) not in allowed:
                raise UserError(f"data.{key}={getattr(self, key)}: expected one of {', '.join(allowed)}")
        self.splits = self.find_splits()
        log.info(
            "%s: %d images to train on, %d to validate, %d to test", type(self).__name__,
            *(len(split) for split in (self.splits.train, self.splits.validation, self.splits.test)),
        )  # fmt: skip

    def find_splits(self) -> sources.Splits:
        """Find the files of each split. Raises UserError if they aren't there."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        self._validation = self._whole(self.splits.validation, self.validation_images)
        if stage == "fit":
            train = self.splits.train
            lr = train.lr if isinstance(train, sources.PairSource) else None
            faults = Faults(train)
            checked = verify(train, 1 if self.resize else self.crop)
            faults.small(checked.small, self.crop)
            faults.add(({} if lr is None else verify(lr).unreadable) | checked.unreadable)
            self._validation.verify()
            self.test_set().verify()
            device = torch.device("cpu")
            if self.cache == "device" and self.trainer is not None:
                device = self.trainer.strategy.root_device
            cache = None if self.cache == "none" else device
            if lr is None:
                self._train = CropBatches(
                    RandomCrops(
                        train, self.crop, self.seed, self.augment, cache, self.resize, self.multiscale, faults=faults
                    )
                )
            else:
                scale = self.degradation.scale
                self._train = CropBatches(
                    RandomCrops(train, self.crop, self.seed, self.augment, cache, grid=scale, faults=faults),
                    RandomCrops(lr, self.crop // scale, self.seed, self.augment, cache, faults=faults),
                )

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if self.cache == "device":  # only this process can cut crops on the device
            return self.batches(0, on_gpu, trainer.global_step, trainer.global_rank, trainer.world_size)
        workers = self.loader_processes(on_gpu, max(1, trainer.num_devices))
        return self.batches(workers, on_gpu, trainer.global_step, trainer.global_rank, trainer.world_size)

    def loader_processes(self, on_gpu: bool, sharers: int = 1) -> int:
        """The number of `workers`: as set, or by the device and the cores of this machine, which `sharers` share."""
        may = _may_start_others()
        if self.workers and not may:
            raise UserError(
                f"data.workers={self.workers}: a run in a process of a pool (hydra/launcher=parallel) can't start"
                " others; leave data.workers out, or take hydra/launcher=local"
            )
        if self.workers is not None or not may:
            return self.workers or 0
        if on_gpu:
            return min(8, max(1, _own_cores() // sharers - 1))
        return int(self.cache == "none")

    def batches(
        self, workers: int, pin_memory: bool = False, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> DataLoader[Batch]:
        """Endless batches of training crops from step `start`; after setup("fit")."""
        assert self._train is not None
        return DataLoader(
            self._train,
            batch_sampler=StepSampler(len(self._train), self.batch_size, self.seed, start, rank, world_size),
            collate_fn=_keep_batch,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_to_main_process,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation images one by one; several processes divide them among themselves."""
        images, trainer = WholeBatches(self._validation), self.trainer
        shares = 1 if trainer is None else trainer.world_size
        if trainer is not None and 1 < shares <= len(images):  # fewer images: each process scores them all
            images = Subset(images, range(trainer.global_rank, len(images), shares))
        return DataLoader(images, batch_size=None, collate_fn=_keep_batch)

    def scored_in_validation(self) -> str:
        """A hash of what validations score: the images' names, wherever they lie, and their size."""
        images = self._whole(self.splits.validation, self.validation_images)
        names = (re.split(r"[/\\:]", images.name(index))[-1] for index in range(len(images)))
        text = "\n".join([str(self.resize), str(getattr(self, "resampling", "")), *names])
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def test_set(self) -> WholeImages:
        """The test images, scored at the end of a run."""
        return self._whole(self.splits.test, self.test_images)

    def _whole(self, source: sources.Source, limit: int | None) -> WholeImages:
        return WholeImages(source, self.degradation.scale, limit, self.resize)

    def pair(self, hr: Tensor, lr: Tensor | None = None, seed: int = 0) -> Pair:
        """LR and HR as floats in channels-last memory, from uint8 `hr` (B, 3, H, W) and its own `lr`, if it has one.

        Without `lr` the degradation makes it; `seed` determines its random draws. LR has 8-bit values, like files.
        """
        return PairMaker(self.degradation, self._train)(hr, lr, seed)

    def pairs_in_graph(self) -> PairMaker | None:
        """Leave the pairs of training batches to a CUDA graph, with this. None if its degradation draws at random."""
        self._left_to_graph = not self.degradation.draws
        return PairMaker(copy.deepcopy(self.degradation), self._train) if self._left_to_graph else None

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Pair | Batch:
        if self._left_to_graph and self.trainer is not None and self.trainer.training:
            return batch
        return self.pair(*batch)


def _keep_batch(batch: Any) -> Any:  # CropBatches.__getitems__ has made a batch; a function, so that it pickles
    return batch


def _may_start_others() -> bool:
    """False in a process of a pool, such as that of a sweep by joblib, in which a loader can't start its workers."""
    process = multiprocessing.current_process()
    return not process.daemon and not process.name.startswith("LokyProcess")


def _own_cores() -> int:
    """Number of cores that this process may use: under SLURM or taskset fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def _leave_signals_to_main_process(worker: int) -> None:
    """Make a loader's worker ignore signals to stop unless the main process sends them.

    A terminal or scheduler signals all processes of a run, and a worker that ended would make the current step fail.
    The main process ends its workers by SIGTERM.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if sys.platform == "linux":  # where a process can find out who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_main_process, daemon=True).start()


def _end_for_main_process() -> None:
    if sys.platform == "linux":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)


@dataclass(kw_only=True, eq=False)
class CelebA(ImageDataModule):
    """CelebA's aligned faces (178×218) with the official splits; `celeba_splits` says which layouts it reads."""

    root: str
    download: bool  # download into root unless the images are there

    def find_splits(self) -> sources.Splits:
        root = given(self.root, "data.root")
        if self.download:
            celeba.download_celeba(root)
        return celeba.celeba_splits(root)


@dataclass(kw_only=True, eq=False)
class Folder(ImageDataModule):
    """Any folder of images; `folder_splits` says what is held out."""

    root: str
    validation_root: str | None
    held_out: float

    def find_splits(self) -> sources.Splits:
        root = given(self.root, "data.root")
        held = None if self.validation_root is None else given(self.validation_root, "data.validation_root")
        return sources.folder_splits(root, held, self.held_out)


@dataclass(kw_only=True, eq=False)
class Photos(ImageDataModule):
    """The colour photographs in scikit-image's wheel: few, but without any download."""

    def find_splits(self) -> sources.Splits:
        return sources.photo_splits()


@dataclass(kw_only=True, eq=False)
class Pairs(ImageDataModule):
    """Folders of HR and LR files, paired by `match_pairs`."""

    hr: str
    lr: str
    validation_hr: str | None
    validation_lr: str | None
    held_out: float

    def find_splits(self) -> sources.Splits:
        for key, unset in (("resize", None), ("multiscale", [])):
            if getattr(self, key) != unset:
                raise UserError(f"data.{key} is for images without LR of their own; leave it out with data=pairs")
        hr, lr = given(self.hr, "data.hr"), given(self.lr, "data.lr")
        validation_hr, validation_lr = (
            None if folder is None else given(folder, f"data.validation_{kind}")
            for kind, folder in (("hr", self.validation_hr), ("lr", self.validation_lr))
        )
        return pairs.pair_splits(hr, lr, validation_hr, validation_lr, self.held_out, self.degradation.scale)


@dataclass(kw_only=True, eq=False)
class HuggingFace(ImageDataModule):
    """A data set of images on the Hugging Face Hub, or a local one in the same form; see `hub_splits`."""

    path: str
    column: str
    revision: str | None
    held_out: float

    def find_splits(self) -> sources.Splits:
        given(self.path, "data.path")
        return huggingface.hub_splits(self.path, self.column, self.revision, self.held_out)


@dataclass(kw_only=True, eq=False)
class Shards(ImageDataModule):
    """Images in shards, written by `srgan.shard`; see `shard_splits`."""

    root: str

    def find_splits(self) -> sources.Splits:
        given(self.root, "data.root")
        return shards.shard_splits(self.root)
