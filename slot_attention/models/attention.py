"""Slot Attention (Algorithm 1) with every variant of appendix B as a field.

Three options come from later papers: implicit differentiation, learned queries
with a bi-level gradient, and a weighted sum divided by N.

Letters in shapes: B batch, N inputs, K slots, D slot size, T iterations.
"Paper" is Locatello et al., Object-Centric Learning with Slot Attention,
NeurIPS 2020, https://arxiv.org/abs/2006.15055.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least, check_choice
from slot_attention.models.layers import (
  GRU,
  MLP,
  LayerNorm,
  Projection,
  example_noise,
  number_of_slots,
)

AGGREGATIONS = (
  "weighted_mean",
  "weighted_sum",
  "weighted_sum_layer_norm",
  "normalized_sum",
)
SOFTMAX_AXES = ("slots", "inputs")
UPDATES = ("gru", "none")
TEMPERATURES = ("sqrt_d", "one")
EPSILON_PLACES = ("attention", "denominator")
SLOT_INITS = ("shared", "per_slot", "queries")
GRADIENTS = ("unrolled", "implicit", "bi_level")


class SlotAttention(nn.Module):
  """Iterative attention in which K slots compete for N inputs (Algorithm 1).

  Attributes:
    num_slots: number of slots K; a call can override it.
    num_iterations: number of iterations T; a call can override it.
    slot_size: size D of slots, queries, keys and values.
    mlp_hidden_size: number of hidden units of the residual MLP; 0 removes the
      MLP (Figure 14).
    epsilon: offset that keeps the weighted mean finite.
    epsilon_place: "attention" adds epsilon to every coefficient, "denominator"
      adds it to their sum over the inputs (Figure 16). Only the weighted mean
      divides by this sum.
    aggregation: "weighted_mean", "weighted_sum", or "weighted_sum_layer_norm"
      (Figure 7); or "normalized_sum", the weighted sum divided by N (Krimmel
      et al., 2024, https://arxiv.org/abs/2407.04170). With it, the size of an
      update says how many inputs a slot has, so that K can grow at test time.
    softmax_axis: "slots" makes the slots compete; "inputs" is the attention of
      Transformers (Figure 10, which combines it with
      aggregation="weighted_sum").
    update: "gru" updates the slots by a GRU; "none" takes the updates as the
      next slots (Figure 11).
    use_layer_norm: whether inputs, slots and the residual MLP's inputs are
      normalised (Figure 13).
    use_projections: whether q, k and v are learned projections. If False, they
      are the identity, and the inputs must have size D (soft k-means).
    temperature: softmax temperature, "sqrt_d" or "one" (Figure 15).
    slot_init: "shared" draws all initial slots from one learned Gaussian,
      "per_slot" from one learned Gaussian per slot (Figure 9). With "queries",
      the initial slots are learned vectors without noise (BO-QSA, Jia et al.,
      2023, https://arxiv.org/abs/2210.08990).
    gradient: the iterations through which the gradient flows. "unrolled", the
      paper's, is all of them. "implicit" is only the last iteration, as if
      the slots before it were a fixed point (Chang et al., 2022,
      https://arxiv.org/abs/2207.00787, the first-order Neumann series); its
      memory does not grow with T, and the initial slots get no gradient.
      "bi_level" is the same, but the initial slots get the gradient of the
      slots before the last iteration (BO-QSA's straight-through estimator).

  Raises:
    ValueError: if a choice does not exist or a number is too small; or if
      gradient="implicit" would leave learned initial slots as they are.
  """

  num_slots: int
  num_iterations: int = 3
  slot_size: int = 64
  mlp_hidden_size: int = 128
  epsilon: float = 1e-8
  epsilon_place: str = "attention"
  aggregation: str = "weighted_mean"
  softmax_axis: str = "slots"
  update: str = "gru"
  use_layer_norm: bool = True
  use_projections: bool = True
  temperature: str = "sqrt_d"
  slot_init: str = "shared"
  gradient: str = "unrolled"

  def __post_init__(self):
    check_at_least("num_slots", self.num_slots, 1)
    check_at_least("num_iterations", self.num_iterations, 1)
    check_at_least("slot_size", self.slot_size, 1)
    check_at_least("mlp_hidden_size", self.mlp_hidden_size, 0)
    check_at_least("epsilon", self.epsilon, 0)
    check_choice("epsilon_place", self.epsilon_place, EPSILON_PLACES)
    check_choice("aggregation", self.aggregation, AGGREGATIONS)
    check_choice("softmax_axis", self.softmax_axis, SOFTMAX_AXES)
    check_choice("update", self.update, UPDATES)
    check_choice("temperature", self.temperature, TEMPERATURES)
    check_choice("slot_init", self.slot_init, SLOT_INITS)
    check_choice("gradient", self.gradient, GRADIENTS)
    if self.gradient == "implicit" and self.learns_each_slot:
      raise ValueError(
        "gradient='implicit' gives initial slots no gradient, so that"
        f" slot_init={self.slot_init!r} would not be learned: use 'bi_level'"
      )
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
    inputs_mask: jax.Array | None = None,
    example_ids: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Groups the inputs into slots.

    Args:
      inputs: [B, N, D_inputs], a set of N inputs per example; their order does
        not matter.
      num_slots: number of slots K in this call; None takes the module's.
      num_iterations: number of iterations T in this call; None takes the
        module's.
      slots: initial slots [B, K, D], which also set K. If None, the initial
        slots are mu + exp(log_sigma) * noise.
      noise: standard normal noise [B, K, D] of the initial slots, which also
        sets K. If None, it is drawn from the random stream "slots"
        (`rngs={"slots": key}`). slot_init="queries" needs no noise.
      inputs_mask: bool [B, N], False where an input is padding. The values of
        padding do not affect any result. If all inputs of an example are
        padding, its slots get updates of zero.
      example_ids: int [B], default 0 .. B-1. The noise drawn for an example
        depends only on the stream's key and on this id, not on the position of
        the example in the batch.

    Returns:
      A dict of
        slots: [B, K, D], the slots after the last iteration;
        attn: [B, T, N, K], the attention of every iteration before epsilon is
          added. It sums to 1 over `softmax_axis` and is 0 for padding;
        slots_per_iteration: [B, T + 1, K, D], the initial slots first.

    Raises:
      ValueError: if K or T is below 1; if no slots are given and K exceeds the
        number of slots that slot_init="per_slot" or "queries" has learned; if
        both slots and noise are given; or if a shape does not fit.
    """
    if inputs.ndim != 3:
      raise ValueError(
        f"inputs of shape {inputs.shape} must have shape [B, N, D]; reshape a"
        " feature map [B, H, W, D] by inputs.reshape(B, H * W, D)"
      )
    batch_size, num_inputs, inputs_size = inputs.shape
    if num_slots is None:
      num_slots = self.num_slots
    if num_iterations is None:
      num_iterations = self.num_iterations
    num_slots = number_of_slots(
      num_slots, slots, noise, batch_size, self.slot_size
    )
    check_at_least("num_iterations", num_iterations, 1)
    if not self.use_projections and inputs_size != self.slot_size:
      raise ValueError(
        f"use_projections=False compares inputs with slots directly: inputs of"
        f" size {inputs_size} do not fit slot_size={self.slot_size}"
      )

    is_input = None
    if inputs_mask is not None:
      if inputs_mask.shape != (batch_size, num_inputs):
        raise ValueError(
          f"inputs_mask of shape {inputs_mask.shape} does not fit inputs of"
          f" shape {inputs.shape}"
        )
      is_input = inputs_mask.astype(bool)[..., None]

    mu, sigma = self._gaussian(num_slots if slots is None else self.num_slots)
    if slots is None:
      if noise is None:
        noise = self._noise(batch_size, num_slots, example_ids)
      slots = mu + sigma * noise

    def layer_norm(name):
      return LayerNorm(name=name) if self.use_layer_norm else (lambda x: x)

    def project(name, size):
      if not self.use_projections:
        return lambda x, transpose=False: x
      return Projection(size, self.slot_size, name=name)

    norm_slots = layer_norm("norm_slots")
    project_q = project("project_q", self.slot_size)
    project_k = project("project_k", inputs_size)
    project_v = project("project_v", inputs_size)
    if self.aggregation == "weighted_sum_layer_norm":
      norm_updates = LayerNorm(name="norm_updates")
    if self.update == "gru":
      gru = GRU(name="gru")
    if self.mlp_hidden_size:
      norm_mlp = layer_norm("norm_mlp")
      mlp = MLP((self.mlp_hidden_size, self.slot_size), name="mlp")

    inputs = layer_norm("norm_inputs")(_fill(inputs, is_input, 0.0))
    scale = self.slot_size**-0.5 if self.temperature == "sqrt_d" else 1.0

    attn_per_iteration, slots_per_iteration = [], [slots]
    for t in range(num_iterations):
      if t == num_iterations - 1:
        slots = self._cut_gradient(slots, slots_per_iteration[0])
      slots_prev = slots
      # (inputs W_k) q^T = inputs (q W_k^T)^T: projecting the K queries by W_k^T
      # gives the same logits as projecting the N inputs by W_k, at less cost.
      # For the same reason, W_v is applied to the weighted mean of the inputs.
      q = project_q(norm_slots(slots)) * scale
      q = project_k(q, transpose=True)
      logits = jnp.einsum("bnd,bkd->bnk", inputs, q)
      attn = nn.softmax(
        _fill(logits, is_input, jnp.finfo(logits.dtype).min),
        axis=-1 if self.softmax_axis == "slots" else -2,
      )
      attn = _fill(attn, is_input, 0.0)
      weights = self._weights(attn, is_input)
      updates = project_v(jnp.einsum("bnk,bnd->bkd", weights, inputs))
      if self.aggregation == "weighted_sum_layer_norm":
        updates = norm_updates(updates)
      slots = gru(slots_prev, updates) if self.update == "gru" else updates
      if self.mlp_hidden_size:
        slots = slots + mlp(norm_mlp(slots))
      attn_per_iteration.append(attn)
      slots_per_iteration.append(slots)

    return {
      "slots": slots,
      "attn": jnp.stack(attn_per_iteration, axis=1),
      "slots_per_iteration": jnp.stack(slots_per_iteration, axis=1),
    }

  def _weights(self, attn: jax.Array, is_input: jax.Array | None) -> jax.Array:
    """Returns the weights [B, N, K] of the values.

    If the aggregation is a mean, they sum to 1 over N.
    """
    if self.epsilon_place == "attention":
      attn = _fill(attn + self.epsilon, is_input, 0.0)
    if self.aggregation == "normalized_sum":
      num_inputs = attn.shape[1]
      if is_input is not None:
        num_inputs = jnp.maximum(is_input.sum(axis=1, keepdims=True), 1)
      return attn / num_inputs
    if self.aggregation != "weighted_mean":
      return attn
    total = jnp.sum(attn, axis=1, keepdims=True)
    if self.epsilon_place == "denominator":
      total = total + self.epsilon
    if is_input is not None:  # A set without inputs would give 0 / 0.
      total = jnp.where(is_input.any(axis=1, keepdims=True), total, 1.0)
    return attn / total

  def _cut_gradient(self, slots: jax.Array, initial: jax.Array) -> jax.Array:
    """Returns the slots [B, K, D] for the last iteration, see `gradient`."""
    if self.gradient == "unrolled":
      return slots
    slots = jax.lax.stop_gradient(slots)
    if self.gradient == "bi_level":  # Adds zero, whose gradient is not zero.
      slots = slots + (initial - jax.lax.stop_gradient(initial))
    return slots

  @property
  def learns_each_slot(self) -> bool:
    """Whether each initial slot has parameters, so that K cannot grow."""
    return self.slot_init != "shared"

  def _gaussian(self, num_slots: int) -> tuple[jax.Array, jax.Array | float]:
    """Returns mean and standard deviation of the initial slots.

    Both have shape [1, K, D], or [1, 1, D] if all slots share one Gaussian. The
    deviation of queries is 0.
    """
    if self.learns_each_slot and num_slots > self.num_slots:
      raise ValueError(
        f"num_slots={num_slots}, but slot_init={self.slot_init!r} has learned"
        f" initial slots for {self.num_slots} slots only; K can grow after"
        " training only with slot_init='shared'"
      )
    num_learned = self.num_slots if self.learns_each_slot else 1
    # As in the official code, each Gaussian is initialised by Glorot over
    # (1, 1, D), that is uniformly within +-0.3038 for D = 64.
    initializer = nn.initializers.glorot_uniform(in_axis=0, batch_axis=1)
    shape = (1, num_learned, self.slot_size)
    mu = self.param("slots_mu", initializer, shape)[:, :num_slots]
    if self.slot_init == "queries":
      return mu, 0.0
    log_sigma = self.param("slots_log_sigma", initializer, shape)
    return mu, jnp.exp(log_sigma[:, :num_slots])

  def _noise(
    self, batch_size: int, num_slots: int, example_ids: jax.Array | None
  ) -> jax.Array:
    """Draws standard normal noise [B, K, D], one key per example."""
    shape = (batch_size, num_slots, self.slot_size)
    if self.slot_init == "queries":
      return jnp.zeros(shape)
    return example_noise(self.make_rng("slots"), example_ids, shape)


def _fill(x: jax.Array, is_input: jax.Array | None, value: float) -> jax.Array:
  """Puts `value` into x [B, N, ...] where is_input [B, N, 1] is False."""
  return x if is_input is None else jnp.where(is_input, x, value)


def soft_k_means(num_slots: int, **fields) -> SlotAttention:
  """Makes soft k-means with dot-product scores (appendix B, last paragraph).

  It is `SlotAttention` without GRU, residual MLP, layer norms and projections.
  The inputs must have the size of the slots. `fields` are other fields of
  `SlotAttention`.
  """
  return SlotAttention(
    num_slots=num_slots,
    update="none",
    mlp_hidden_size=0,
    use_layer_norm=False,
    use_projections=False,
    **fields,
  )
