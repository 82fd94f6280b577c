"""Training in several processes: each has a share of every batch, and gradients are averaged before each update."""

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


class Processes(DDPStrategy):
    """Lightning's DDP without torch's DistributedDataParallel, which knows one network and one backward pass.

    `Step` averages the gradients of each network itself, by `average`, before that network's update: one collective
    operation, of that network's gradients alone. All processes start from the first one's weights.
    """

    strategy_name = "srgan_processes"

    def configure_ddp(self) -> None:
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            if isinstance(tensor, Tensor):
                torch.distributed.broadcast(tensor, src=0)


@torch.no_grad()
def average(network: nn.Module, beside: Tensor) -> None:
    """Average a network's gradients, the running statistics of its BN, and `beside`, over all processes.

    All processes then make the same update and hold the same network: what one of them validates or saves is true of
    all.
    """
    tensors = [beside, *(parameter.grad for parameter in network.parameters() if parameter.grad is not None)]
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            tensors += [x for x in (module.running_mean, module.running_var) if x is not None]
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))
