"""Slot attention by optimal transport: Sinkhorn attention and MESH.

"Paper" is Zhang et al., Unlocking Slot Attention by Changing Optimal Transport
Costs, ICML 2023, https://arxiv.org/abs/2301.13197. Its code is davzha/MESH,
whose values (`config/model/slot_attention/mesh.yaml`) are the defaults.

Letters in shapes: B batch, N inputs, K slots, M inputs or slots, D slot size, T
iterations.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least
from slot_attention.models.layers import (
  GRU,
  MLP,
  Dense,
  LayerNorm,
  Projection,
  example_noise,
  number_of_slots,
)

# Standard deviation of the noise that breaks ties between equal costs.
_COST_NOISE = 0.001
# The entropy is that of plans clipped to this range.
_LEAST_SHARE, _LARGEST_SHARE = 1e-20, 1.0


def sinkhorn(
  cost: jax.Array,
  log_a: jax.Array,
  log_b: jax.Array,
  potential: jax.Array,
  num_iterations: int,
) -> tuple[jax.Array, jax.Array]:
  """Computes a transport plan with entropy regularisation 1.

  Args:
    cost: [B, N, K].
    log_a: [B, N], the logarithm of the marginal of every input.
    log_b: [B, K], the logarithm of the marginal of every slot. The marginals of
      the inputs and those of the slots have the same sum.
    potential: [B, K], initial value of the slots' dual variable.
    num_iterations: number of Sinkhorn iterations, at least 1.

  Returns:
    The plan [B, N, K] and the dual variable of the slots [B, K]. The sums of
    the plan over the inputs are exact, those over the slots approximate.
  """
  v = potential
  for _ in range(num_iterations):
    u = log_a - jax.nn.logsumexp(v[:, None] - cost, axis=2)
    v = log_b - jax.nn.logsumexp(u[:, :, None] - cost, axis=1)
  return jnp.exp(u[:, :, None] + v[:, None] - cost), v


def entropy(plan: jax.Array) -> jax.Array:
  """Returns the mean of -p log p over the entries of plans [B, N, K]: [B]."""
  plan = jnp.clip(plan, _LEAST_SHARE, _LARGEST_SHARE)
  return -jnp.mean(plan * jnp.log(plan), axis=(1, 2))


def minimize_entropy(
  cost: jax.Array,
  log_a: jax.Array,
  log_b: jax.Array,
  *,
  num_steps: int,
  rate: float,
  num_iterations: int,
) -> tuple[jax.Array, jax.Array]:
  """Changes costs so that their plans have less entropy.

  A step moves the costs of each example by `rate` against the gradient of the
  entropy. Training treats that gradient as a constant; the gradient of the
  loss flows through the costs and dual variables that a step passes on.

  Args:
    cost: [B, N, K].
    log_a: [B, N], see `sinkhorn`.
    log_b: [B, K], see `sinkhorn`.
    num_steps: number of steps.
    rate: length of a step.
    num_iterations: number of Sinkhorn iterations in a step.

  Returns:
    The new cost [B, N, K] and the dual variable of the slots [B, K].
  """
  v = jnp.zeros_like(log_b)
  for _ in range(num_steps):
    fixed = jax.lax.stop_gradient((log_a, log_b, v))
    gradient = jax.grad(
      lambda cost, fixed=fixed: entropy(
        sinkhorn(cost, *fixed, num_iterations)[0]
      ).sum()
    )(jax.lax.stop_gradient(cost))
    norm = jnp.sqrt(jnp.sum(jnp.square(gradient), axis=(1, 2), keepdims=True))
    _, v = sinkhorn(cost, log_a, log_b, v, num_iterations)
    cost = cost - rate * gradient / jnp.maximum(norm, 1e-12)
  return cost, v


class MeshAttention(nn.Module):
  """Slot Attention whose attention is a transport plan.

  The plan moves learned amounts from inputs to slots. Gradient steps on its
  costs lower its entropy, which makes it sparse and separates similar slots.

  Attributes:
    num_slots: number of slots K; a call can override it.
    num_iterations: number of iterations T; a call can override it.
    slot_size: size D of slots, queries, keys and values.
    mlp_hidden_size: number of hidden units of the residual MLP and of the MLPs
      of the amounts.
    sinkhorn_iterations: number of Sinkhorn iterations in each plan.
    mesh_steps: number of steps that lower the entropy. 0 is plain Sinkhorn
      attention.
    mesh_rate: length of such a step.

  Raises:
    ValueError: if a number is too small.
  """

  num_slots: int
  num_iterations: int = 3
  slot_size: int = 64
  mlp_hidden_size: int = 128
  sinkhorn_iterations: int = 5
  mesh_steps: int = 4
  mesh_rate: float = 8.0

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 1)
    check_at_least("num_iterations", self.num_iterations, 1)
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("mlp_hidden_size", self.mlp_hidden_size, 1)
    check_at_least("sinkhorn_iterations", self.sinkhorn_iterations, 1)
    check_at_least("mesh_steps", self.mesh_steps, 0)
    check_at_least("mesh_rate", self.mesh_rate, 0)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    *,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    slots: jax.Array | None = None,
    noise: jax.Array | None = None,
    example_ids: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Groups the inputs into slots.

    Args:
      inputs: [B, N, D_inputs]; their order does not matter.
      num_slots: number of slots K in this call; None takes the module's.
      num_iterations: number of iterations T in this call; None takes the
        module's.
      slots: initial slots [B, K, D], which also set K. If None, they are drawn
        from one learned Gaussian.
      noise: standard normal noise [B, K, D] of the initial slots, which also
        sets K. If None, it is drawn from the random stream "slots", from which
        mesh_steps > 0 draws the noise of the costs as well.
      example_ids: int [B], default 0 .. B-1, see `SlotAttention`.

    Returns:
      A dict of
        slots: [B, K, D], the slots after the last iteration;
        attn: [B, T, N, K], the plans, normalised to sum to 1 over the slots;
        plan: [B, T, N, K], the plans. All entries sum to K, and the sum of a
          slot is what it takes;
        slots_per_iteration: [B, T + 1, K, D], the initial slots first.

    Raises:
      ValueError: if K or T is below 1, if both slots and noise are given, or if
        a shape does not fit.
    """
    batch_size, num_inputs, inputs_size = inputs.shape
    if num_slots is None:
      num_slots = self.num_slots
    if num_iterations is None:
      num_iterations = self.num_iterations
    num_slots = number_of_slots(
      num_slots, slots, noise, batch_size, self.slot_size
    )
    check_at_least("num_iterations", num_iterations, 1)
    initializer = nn.initializers.glorot_uniform(in_axis=0, batch_axis=1)
    mu, log_sigma = (
      self.param(name, initializer, (1, 1, self.slot_size))
      for name in ("slots_mu", "slots_log_sigma")
    )
    if slots is None:
      if noise is None:
        shape = (batch_size, num_slots, self.slot_size)
        noise = example_noise(self.make_rng("slots"), example_ids, shape)
      slots = mu + jnp.exp(log_sigma) * noise

    norm_slots = LayerNorm(name="norm_slots")
    project_q = Projection(self.slot_size, self.slot_size, name="project_q")
    slot_amounts = Amounts(self.mlp_hidden_size, name="slot_amounts")
    gru = GRU(name="gru")
    norm_mlp = LayerNorm(name="norm_mlp")
    mlp = MLP((self.mlp_hidden_size, self.slot_size), name="mlp")

    inputs = LayerNorm(name="norm_inputs")(inputs)
    k = Projection(inputs_size, self.slot_size, name="project_k")(inputs)
    v = Projection(inputs_size, self.slot_size, name="project_v")(inputs)
    # Logarithms of the amounts, each of which sums to K.
    log_total = jnp.log(float(num_slots))
    input_amounts = Amounts(self.mlp_hidden_size, name="input_amounts")
    log_a = log_total + input_amounts(inputs)
    cost_noise = 0.0
    if self.mesh_steps:
      shape = (batch_size, num_inputs, num_slots)
      cost_noise = example_noise(self.make_rng("slots"), example_ids, shape)

    attn_per_iteration, plan_per_iteration = [], []
    slots_per_iteration = [slots]
    for _ in range(num_iterations):
      slots_prev = slots
      slots = norm_slots(slots)
      log_b = log_total + slot_amounts(slots)
      cost = _distance(k, project_q(slots)) + _COST_NOISE * cost_noise
      cost, potential = minimize_entropy(
        cost,
        log_a,
        log_b,
        num_steps=self.mesh_steps,
        rate=self.mesh_rate,
        num_iterations=self.sinkhorn_iterations,
      )
      plan, potential = sinkhorn(
        cost, log_a, log_b, potential, self.sinkhorn_iterations
      )
      slots = gru(slots_prev, jnp.einsum("bnk,bnd->bkd", plan, v))
      slots = slots + mlp(norm_mlp(slots))
      # The plan divided by its sums over the slots. A softmax is used because
      # some of these sums are 0 in float32.
      attn_per_iteration.append(nn.softmax(potential[:, None] - cost, axis=-1))
      plan_per_iteration.append(plan)
      slots_per_iteration.append(slots)

    return {
      "slots": slots,
      "attn": jnp.stack(attn_per_iteration, axis=1),
      "plan": jnp.stack(plan_per_iteration, axis=1),
      "slots_per_iteration": jnp.stack(slots_per_iteration, axis=1),
    }


class Amounts(nn.Module):
  """Learned shares of a total.

  Attributes:
    hidden_size: number of hidden units.
  """

  hidden_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [B, M, D] to logarithms [B, M] of shares that sum to 1 over M."""
    x = nn.relu(Dense(self.hidden_size, name="dense_0")(x))
    x = Dense(1, use_bias=False, name="dense_1")(x)[..., 0]
    return nn.log_softmax(x, axis=-1)


def _distance(k, q):
  """Returns the Euclidean distances [B, N, K] of k [B, N, D], q [B, K, D].

  The product is as precise as the squares, from which it is subtracted, also on
  accelerators that multiply in fewer bits by default.
  """
  product = jnp.einsum(
    "bnd,bkd->bnk", k, q, precision=jax.lax.Precision.HIGHEST
  )
  squares = (
    jnp.sum(jnp.square(k), axis=-1)[:, :, None]
    + jnp.sum(jnp.square(q), axis=-1)[:, None]
    - 2 * product
  )
  # At 0 the distance has no gradient, and rounding can go below it.
  return jnp.sqrt(jnp.maximum(squares, 1e-12))
