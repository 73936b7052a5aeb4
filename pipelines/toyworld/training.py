"""What both training scripts share: optimiser, learning-rate schedule, weight average, checkpoints.

Start a script with `torchrun --nproc-per-node N`: each process computes the gradient of its own
batch on one thread, the mean of all is applied everywhere.
"""

import copy
import math
import os
from pathlib import Path

import torch
from torch import distributed, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal (Jordan et al. 2024), also for convolutions.

    The update is scaled to AdamW's usual size, so that learning rates mean the same for both.
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            weights = group["params"]
            updates = [torch.zeros_like(weight) for weight in weights]
            for index, (weight, update) in enumerate(zip(weights, updates, strict=True)):
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                # A quarter of a training step: each process does its share of the matrices.
                if index % _num_processes() == _rank():
                    ahead = weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)
                    orthogonal = _orthogonalise(ahead) * 0.2 * math.sqrt(max(ahead.shape))
                    update.copy_(orthogonal.view_as(update))
            _sum_over_processes(updates)
            for weight, update in zip(weights, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"])


def _orthogonalise(matrix: torch.Tensor, iterations: int = 4) -> torch.Tensor:
    """Bring all singular values near one, by Newton and Schulz's quintic iteration in bfloat16."""
    matrix = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    is_tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if is_tall else matrix
    for _ in range(iterations):
        gram = matrix @ matrix.T
        matrix = 3.4445 * matrix + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrix
    return (matrix.T if is_tall else matrix).float()


def learning_rate_scale(step: int, *, warmup: int, decay_from: int, total: int) -> float:
    """Linear warm-up, then constant, then a half cosine to 1% from step `decay_from` on."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(max(step - decay_from, 0) / max(total - decay_from, 1), 1.0)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """A model with its optimisers, weight average and step count, saved and restored as one.

    Weights of two and more dimensions with at least `muon_size` elements are left to Muon, the
    others to AdamW. Seeding each step from its number is the script's part; a run that was
    stopped and restored then draws what it would have drawn.
    """

    def __init__(
        self, model: nn.Module, *, learning_rate: float, ema_decay: float, muon_size: float
    ) -> None:
        if "RANK" in os.environ:
            distributed.init_process_group("gloo")
        self.rank, self.num_processes = _rank(), _num_processes()
        self.model = model
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.learning_rate = learning_rate
        self.ema_decay = ema_decay
        self.step = 0
        large, small = [], []
        for weight in model.parameters():
            is_large = weight.ndim >= 2 and weight.numel() >= muon_size
            (large if is_large else small).append(weight)
        self.optimisers = [
            torch.optim.AdamW(small, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
        ]
        if large:
            self.optimisers.append(Muon(large, lr=learning_rate))

    def update(self, loss: torch.Tensor, learning_rate_scale: float) -> None:
        """One optimiser step on the processes' mean `loss`, then the weight average follows."""
        weights = list(self.model.parameters())
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [weight.grad for weight in weights]
        _sum_over_processes(gradients)
        torch._foreach_div_(gradients, self.num_processes)
        nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.learning_rate * learning_rate_scale
            optimiser.step()
        self.step += 1
        decay = min(self.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), weights, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything; a run killed meanwhile leaves the former file whole."""
        if self.rank != 0:
            return
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        temporary = path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from a file that `save` or `unpack.py` wrote, if there is one.

        The latter has no states of optimisers: they start anew.
        """
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        if "optimisers" not in state:
            return
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def _rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def _num_processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _sum_over_processes(tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the processes, in one message."""
    if _num_processes() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def load_average(model: nn.Module, path: Path) -> nn.Module:
    """Fill `model` with the averaged weights of a checkpoint."""
    model.load_state_dict(torch.load(path, weights_only=True)["average"])
    return model.eval().requires_grad_(False)
