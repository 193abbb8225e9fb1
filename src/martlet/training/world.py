"""The processes of a run, as torchrun starts them: sums over ranks, gradients shared (DDP, FSDP2), lost ranks."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from martlet.errors import DeviceError, LostRankError, UnsupportedError
from martlet.nn.decoder import Block
from martlet.training.arguments import TrainingArguments


class World:
    """This process among those of its run. Alone, every method is a plain answer."""

    def __init__(self, args: TrainingArguments) -> None:
        self.size, self.rank, self.local_rank = args.world_size, args.process_index, args.local_process_index
        has_cuda = torch.cuda.is_available() and not args.use_cpu
        if has_cuda and self.local_rank >= torch.cuda.device_count():
            raise DeviceError(
                f"rank {self.rank}", "must have a GPU of its own", found=f"{torch.cuda.device_count()} GPUs",
                remedy="Start fewer processes a node, or pass use_cpu=True.",
            )  # fmt: skip
        self.device: torch.device = args.device
        if self.size > 1 and not dist.is_initialized():
            with self.watching():
                dist.init_process_group(
                    args.ddp_backend or ("nccl" if has_cuda else "gloo"),
                    timeout=datetime.timedelta(seconds=args.ddp_timeout),
                )
        self.shards = bool(args.fsdp) and self.size > 1
        self.bucket_mb = args.ddp_bucket_cap_mb
        config: Any = args.fsdp_config or {}
        self.reshards = bool(config.get("reshard_after_forward", True))
        self.root: nn.Module | None = None  # what `share` cut in shards

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, a broken connection to another rank is a LostRankError."""
        try:
            yield
        except RuntimeError as problem:
            text = str(problem)
            signs = ("gloo", "Connection closed", "Connection reset", "NCCL", "TCPStore", "Broken pipe", "Timed out")
            if self.size == 1 or isinstance(problem, LostRankError) or not any(sign in text for sign in signs):
                raise
            raise LostRankError(
                f"rank {self.rank} of {self.size}", "another rank is gone", found=text.splitlines()[0][:200],
                remedy="Start the run again with resume_from_checkpoint=True.",
            ) from problem  # fmt: skip

    @contextlib.contextmanager
    def told_to_end(self) -> Iterator[None]:
        """Inside, the SIGTERM by which torchrun ends the ranks that are left is an error that says so."""
        is_main = threading.current_thread() is threading.main_thread()
        if self.size == 1 or not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            yield
            return
        own = os.getpid()

        def tell(*_: Any) -> None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if os.getpid() != own:  # a process that was forked from this one
                signal.raise_signal(signal.SIGTERM)
            raise LostRankError(
                f"rank {self.rank} of {self.size}", "was told to end by what started it: another rank is gone",
                found="SIGTERM", remedy="Start the run again with resume_from_checkpoint=True.",
            )  # fmt: skip

        signal.signal(signal.SIGTERM, tell)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks, in float64, the same on each."""
        if self.size == 1:
            return list(values)
        device = self.device if dist.get_backend() == "nccl" else torch.device("cpu")
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        with self.watching():
            dist.all_reduce(tensor)
        return [float(each) for each in tensor.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        with self.watching():
            dist.all_gather_object(out, value)
        return out

    def from_first(self, value: Any) -> Any:
        """Rank 0's value."""
        if self.size == 1:
            return value
        box = [value]
        with self.watching():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            with self.watching():
                dist.barrier()

    def share(self, step: nn.Module, model: nn.Module) -> nn.Module:
        """`step` so that its gradients are means over the ranks: DDP, or the weights cut in shards (FSDP2)."""
        if self.size == 1:
            return step
        if not self.shards:
            extra: dict[str, Any] = {} if self.bucket_mb is None else {"bucket_cap_mb": self.bucket_mb}
            return nn.parallel.DistributedDataParallel(step, find_unused_parameters=True, **extra)
        from torch.distributed.fsdp import fully_shard

        if any(isinstance(each, nn.MultiheadAttention) for each in model.modules()):
            raise UnsupportedError("fsdp", "is for models of this library", found=type(model).__name__)
        for block in [each for each in model.modules() if isinstance(each, Block)]:
            fully_shard(block, reshard_after_forward=self.reshards)
        fully_shard(step)
        self.root = step
        return step

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, each rank holds all weights, and may run the model as often as it has batches."""
        if self.root is None:
            yield
            return
        from torch.distributed.fsdp import FSDPModule, fully_shard

        if not hasattr(self.root, "reset_iter_state"):
            raise UnsupportedError(
                "fsdp", "needs a torch whose FSDP has reset_iter_state to run a model between steps",
                found=torch.__version__, remedy="Install torch 2.13 or newer, or leave eval_strategy at 'no'.",
            )  # fmt: skip
        fully_shard.state(self.root)._lazy_init()  # type: ignore[attr-defined]  # else the first block would be the root
        parts = [each for each in self.root.modules() if isinstance(each, FSDPModule)]
        for each in parts:
            each.set_reshard_after_forward(False, recurse=False)
            each.unshard()
        try:
            yield
        finally:
            self.root.reset_iter_state()  # type: ignore[operator]
            # else ranks with other numbers of batches fetch blocks in another order
            for each in parts:
                each.reshard()
                each.set_reshard_after_forward(self.reshards and each is not self.root, recurse=False)

    @contextlib.contextmanager
    def holding(self, step: nn.Module, is_last: bool) -> Iterator[None]:
        """Inside, gradients stay on their rank unless this is the step's last batch."""
        if self.size == 1 or is_last:
            if self.shards:
                step.set_requires_gradient_sync(True)  # type: ignore[operator]
            yield
        elif self.shards:
            step.set_requires_gradient_sync(False)  # type: ignore[operator]
            yield
        else:
            with step.no_sync():  # type: ignore[operator]
                yield


def touch(model: nn.Module) -> Tensor:
    """Zero, through every weight that learns: the loss of a rank that has no sample left in a step."""
    total = torch.zeros(())
    for parameter in model.parameters():
        if parameter.requires_grad:
            total = total + parameter.reshape(-1)[:1].sum().float().to(total.device) * 0.0
    return total
