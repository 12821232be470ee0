"""The optimisers and their learning rates."""

import functools
import math

import jax
import jax.numpy as jnp
import ml_collections
import optax
from optax import contrib

# Muon updates matrices with at least this many rows and columns. The others are
# closer to vectors, and Adam updates them.
MIN_MUON_SIZE = 16


def from_config(
  config: ml_collections.ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Makes the optimiser of a config.

  Args:
    config: that `validation.checked` has returned.

  Returns:
    The optimiser, and the schedule of `config.learning_rate`.
  """

  def schedule(learning_rate):
    return learning_rate_schedule(
      learning_rate=learning_rate,
      warmup_steps=config.warmup_steps,
      decay=config.decay,
      decay_rate=config.decay_rate,
      decay_steps=config.decay_steps,
    )

  adam_schedule = schedule(config.learning_rate)
  muon_schedule = None
  if config.optimizer == "muon":
    muon_schedule = schedule(config.muon_learning_rate)
  optimizer = make_optimizer(
    adam_schedule,
    config.max_grad_norm,
    muon_schedule,
    config.muon_kernels,
    config.optimizer_epsilon,
  )
  return optimizer, adam_schedule


def learning_rate_schedule(
  *,
  learning_rate: float,
  warmup_steps: int,
  decay_rate: float,
  decay_steps: int,
  decay: str = "exponential",
) -> optax.Schedule:
  """Returns a schedule with a linear warm-up and a decay.

  Both decays multiply the rate by `decay_rate` in `decay_steps` steps. The
  exponential decay, which is the official schedule, then continues in the same
  way. The cosine decay then keeps the rate constant.

  The decay starts with the warm-up, while that of
  `optax.warmup_exponential_decay_schedule` starts after it. The rate of step s,
  counted from 0, is learning_rate * min(1, s / warmup_steps) * factor, where
  factor is decay_rate ** (s / decay_steps) or
  decay_rate + (1 - decay_rate) * (1 + cos(pi * min(1, s / decay_steps))) / 2.
  With a warm-up, the rate of the first update is therefore 0.

  Args:
    learning_rate: rate after the warm-up, if there were no decay.
    warmup_steps: number of steps of the warm-up; 0 for none.
    decay_rate: factor of the rate after `decay_steps` steps.
    decay_steps: number of steps for one factor `decay_rate`.
    decay: "exponential" or "cosine".
  """

  def factor(step):
    if decay == "exponential":
      return decay_rate ** (step / decay_steps)
    angle = jnp.pi * jnp.minimum(1.0, step / decay_steps)
    return decay_rate + (1 - decay_rate) * (1 + jnp.cos(angle)) / 2

  def schedule(step):
    warmup = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
    return learning_rate * warmup * factor(step)

  return schedule


def make_optimizer(
  schedule: optax.Schedule,
  max_grad_norm: float,
  muon_schedule: optax.Schedule | None = None,
  muon_kernels: str = "all",
  epsilon: float = 1e-8,
) -> optax.GradientTransformation:
  """Makes Adam with the paper's constants (Table 11a), or Muon beside Adam.

  Optax adds epsilon after the bias correction of the moments, TensorFlow before
  it. In the first update, TensorFlow's epsilon acts as 3.2e-7 instead of 1e-8,
  and after about 1,000 steps both are about equal.

  Muon (Jordan et al., 2024) replaces the averaged gradient of a matrix by an
  approximation of the nearest orthogonal matrix, so that all its directions
  learn at about the same rate. This matrix is multiplied by 0.2 times the
  square root of its larger side, which gives it the root mean square of Adam's
  updates (Liu et al., 2025, https://arxiv.org/abs/2502.16982). Adam with
  Nesterov's momentum updates all other parameters.

  Args:
    schedule: function from a step to Adam's learning rate.
    max_grad_norm: largest global norm of the gradients, to which larger ones
      are clipped. 0 turns clipping off, as in the paper.
    muon_schedule: function from a step to Muon's learning rate. None: Adam
      updates all parameters, as in the paper.
    muon_kernels: which kernels Muon updates: "all", or only those of "dense"
      layers or of "convolutions". Adam updates the others.
    epsilon: added to the denominators of Adam and of Muon. Gradients that are
      not much larger change the parameters less.
  """
  if muon_schedule is None:
    optimizer = optax.adam(schedule, b1=0.9, b2=0.999, eps=epsilon)
  else:
    optimizer = contrib.muon(
      muon_schedule,
      beta=0.95,
      eps=epsilon,
      nesterov=True,
      ns_steps=5,
      consistent_rms=0.2,
      adam_learning_rate=schedule,
      muon_weight_dimension_numbers=functools.partial(
        _matrices, kernels=muon_kernels
      ),
    )
  if not max_grad_norm:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


def num_updates(state: optax.OptState) -> int:
  """Returns the number of updates that an optimiser has made.

  Args:
    state: of an optimiser of `make_optimizer`.
  """
  counts = optax.tree.get_all_with_path(state, "count")
  return max(int(count) for _, count in counts)


def _matrices(params, *, kernels):
  """Says how each parameter is a matrix for Muon; None where Adam updates it.

  Only the kernels of layers are matrices. The outputs of a layer are the last
  axis of its kernel. All other axes are inputs: a convolution's kernel is a
  matrix of height * width * D by F. A transposed convolution has its D inputs
  in the last axis, and is a matrix of height * width * F by D. Query, key and
  value of Flax's self-attention have two axes of outputs: the heads, and the
  size of a head.
  """

  def dimension_numbers(path, x):
    layer, name = ["", *(key.key for key in path)][-2:]
    kind = "convolutions" if x.ndim == 4 else "dense"
    if name != "kernel" or kernels not in ("all", kind):
      return None
    is_of_heads = x.ndim == 3 and layer in ("query", "key", "value")
    first_output = 1 if is_of_heads else x.ndim - 1
    inputs = tuple(range(first_output))
    outputs = tuple(range(first_output, x.ndim))
    sides = [math.prod(x.shape[i] for i in axes) for axes in (inputs, outputs)]
    if min(sides) < MIN_MUON_SIZE:
      return None
    return contrib.MuonDimensionNumbers(inputs, outputs)

  return jax.tree_util.tree_map_with_path(dimension_numbers, params)
