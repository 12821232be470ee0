"""The optimiser and its learning rate (Table 11a)."""

import jax.numpy as jnp
import optax


def learning_rate_schedule(
  *,
  learning_rate: float,
  warmup_steps: int,
  decay_rate: float,
  decay_steps: int,
) -> optax.Schedule:
  """The official schedule: exponential decay, which also runs in the warm-up.

  At the 0-based step s,
  learning_rate * min(1, s / warmup_steps) * decay_rate ** (s / decay_steps);
  the first update has rate 0. (`optax.warmup_exponential_decay_schedule` begins
  to decay after the warm-up.)
  """

  def schedule(step):
    warmup = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
    return learning_rate * warmup * decay_rate ** (step / decay_steps)

  return schedule


def make_optimizer(
  schedule: optax.Schedule, max_grad_norm: float
) -> optax.GradientTransformation:
  """Adam with the paper's constants (Table 11a).

  Optax adds epsilon after it corrects the bias of the moments, TensorFlow
  before. The first updates differ by 3e-5 and later ones ever less: after about
  1,000 steps nothing of it is left.

  Args:
    schedule: learning rate of a step.
    max_grad_norm: global norm to which gradients are clipped; 0 leaves them as
      they are, as in the paper.
  """
  adam = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
  if not max_grad_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), adam)
