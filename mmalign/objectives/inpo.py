"""DDIM-InPO: Diffusion-DPO at noised latents that inversion finds, those that lead to the pictures."""

from __future__ import annotations

from dataclasses import dataclass

from mmalign.objectives._pairs import require
from mmalign.objectives.dpo import DPO
from mmalign.types import Inversion


@dataclass(frozen=True)
class InPO(DPO):
    """DDIM-InPO (arXiv 2503.18454): the loss of `dpo` on a denoiser, with another way to noised latents.

    The clean latents are inverted by the current policy, without guidance and without a gradient, over a
    grid of `steps` levels up to the drawn level t itself, each step with `jitter` times the noise that
    ancestral sampling would add. The target is the noise eps* that leads from the clean latents to x_t. Level
    and jitter are shared in a pair, eps* is each side's own. beta is Diffusion-DPO's: 2000 to 5000.

    Released code takes one level for a whole batch and labels a latent one grid step off; here every pair has
    its own level, and the walk ends on it.
    """

    beta: float = 2000.0  # strength of the pull to the reference: 2000 to 5000
    steps: int = 10  # of the inversion, from clean latents to the drawn level
    jitter: float = 0.1  # share of the noise that ancestral sampling would add, added at each of them

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.steps >= 1, f"steps: must be 1 or more, got {self.steps}")
        require(0 <= self.jitter <= 1, f"jitter: must lie in [0, 1], got {self.jitter}")

    @property
    def needs(self) -> frozenset[str]:
        """What `dpo` needs, and inversion."""
        return super().needs | {"inversion"}

    @property
    def inversion(self) -> Inversion:
        """To the drawn level, led by the policy."""
        return Inversion("policy", self.steps, jitter=self.jitter)
