"""Muon for the matrices and Adam for the rest, in one optimizer.

Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the nearest
orthogonal one, found by a Newton-Schulz iteration; it needs markedly fewer tokens than Adam, which counts on a CPU.
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(gradient: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """`gradient` [rows, columns] with all its singular values moved near 1."""
    a, b, c = COEFFICIENTS
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if gradient.shape[0] > gradient.shape[1] else x


class MuonAdam(torch.optim.Optimizer):
    """`groups` have the keys `params`, `kind` ("muon" or "adam") and `peak` (learning rate); `scale` is the schedule."""

    def __init__(self, groups: list[dict], weight_decay: float = 0.05):
        super().__init__(groups, {"weight_decay": weight_decay})
        self.scale = 1.0

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            rate = group["peak"] * self.scale
            for parameter in group["params"]:
                state = self.state[parameter]
                if group["kind"] == "muon":
                    self._muon(parameter, state, rate, group["weight_decay"])
                else:
                    self._adam(parameter, state, rate)

    def _muon(self, parameter: torch.Tensor, state: dict, rate: float, decay: float) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 0.05)
        update = orthogonalize(parameter.grad.lerp(momentum, 0.95))
        update *= max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        parameter.mul_(1 - rate * decay).add_(update, alpha=-rate)

    def _adam(self, parameter: torch.Tensor, state: dict, rate: float) -> None:
        if not state:
            state.update(step=0, first=torch.zeros_like(parameter), second=torch.zeros_like(parameter))
        state["step"] += 1
        state["first"].lerp_(parameter.grad, 0.1)
        state["second"].lerp_(parameter.grad.square(), 0.05)
        first = state["first"] / (1 - 0.9 ** state["step"])
        second = state["second"] / (1 - 0.95 ** state["step"])
        parameter.sub_(rate * first / (second.sqrt() + 1e-8))
