"""How a run goes on, whatever it learns: its length, its learning rate, how often it is saved."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt


class Pace(BaseModel):
    """Length and learning rate of a run, and what its optimiser does.

    decay_share: share of the run, at its end, in which the learning rate falls to zero.
    average_decay: of the running average of the parameters, which is what a run is for.
    bfloat16: products in it, where the device computes in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_steps: PositiveInt
    warmup_steps: PositiveInt = 100
    learning_rate: PositiveFloat = 1.5e-3
    weight_decay: float = 0.01
    clip_norm: PositiveFloat = 5.0
    average_decay: float = 0.999
    decay_share: float = 0.3
    bfloat16: bool = True
    seed: int = 0
    log_every: PositiveInt = 25
    save_every: PositiveInt = 250

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, a plateau, and a linear fall to zero; what precedes the fall is the same for any `n_steps`."""
        rise = (step + 1) / self.warmup_steps
        fall = (self.n_steps - step) / max(1.0, self.decay_share * self.n_steps)
        return self.learning_rate * min(1.0, rise, fall)
