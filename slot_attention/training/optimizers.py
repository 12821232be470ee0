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
  """Returns the official schedule: linear warm-up and exponential decay.

  The decay starts with the warm-up, while that of
  `optax.warmup_exponential_decay_schedule` starts after it. The rate of step s,
  counted from 0, is
  learning_rate * min(1, s / warmup_steps) * decay_rate ** (s / decay_steps).
  The rate of the first update is therefore 0.

  Args:
    learning_rate: rate after the warm-up, if there were no decay.
    warmup_steps: number of steps of the warm-up; 0 for none.
    decay_rate: factor of the rate after `decay_steps` steps.
    decay_steps: number of steps for one factor `decay_rate`.
  """

  def schedule(step):
    warmup = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
    return learning_rate * warmup * decay_rate ** (step / decay_steps)

  return schedule


def make_optimizer(
  schedule: optax.Schedule, max_grad_norm: float
) -> optax.GradientTransformation:
  """Makes Adam with the paper's constants (Table 11a).

  Optax adds epsilon after the bias correction of the moments, TensorFlow before
  it. The first updates therefore differ by 3e-5. The difference decreases and
  is gone after about 1,000 steps.

  Args:
    schedule: function from a step to its learning rate.
    max_grad_norm: largest global norm of the gradients, to which larger ones
      are clipped. 0 turns clipping off, as in the paper.
  """
  adam = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
  if not max_grad_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), adam)
