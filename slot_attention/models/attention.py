"""Slot Attention (Algorithm 1) with every variant of appendix B as a field.

Letters in shapes: B batch, N inputs, K slots, D slot size, T iterations.
"Paper" is Locatello et al., Object-Centric Learning with Slot Attention,
NeurIPS 2020, https://arxiv.org/abs/2006.15055.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from slot_attention.checks import check_at_least, check_choice

AGGREGATIONS = ("weighted_mean", "weighted_sum", "weighted_sum_layer_norm")
SOFTMAX_AXES = ("slots", "inputs")
UPDATES = ("gru", "none")
TEMPERATURES = ("sqrt_d", "one")
EPSILON_PLACES = ("attention", "denominator")
SLOT_INITS = ("shared", "per_slot")

# The reference is written in Keras: its defaults, not Flax's, are the paper's.
Dense = functools.partial(
  nn.Dense, kernel_init=nn.initializers.glorot_uniform()
)
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-3)


class MLP(nn.Module):
  """Dense layers of the given sizes with ReLU between them."""

  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """[..., D_in] to [..., sizes[-1]]."""
    x = inputs
    for i, size in enumerate(self.sizes):
      x = Dense(size, name=f"dense_{i}")(nn.relu(x) if i else x)
    return x


class GRU(nn.Module):
  """Gated recurrent unit, as Keras' `GRUCell(reset_after=True)`.

  Computes what `flax.linen.GRUCell` computes. Its own class because Keras draws
  the kernels of the three gates as one matrix, [D_in, 3D] Glorot and [D, 3D]
  orthogonal, which cannot be had from gates that are initialised apart.
  """

  @nn.compact
  def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
    """Returns the next state [..., D] from state [..., D], inputs [..., D_in].

    The columns of both kernels are, in thirds: update gate z, reset gate r,
    candidate.
    """
    size = state.shape[-1]
    inputs = Dense(3 * size, name="input")(inputs)
    recurrent = nn.Dense(
      3 * size, kernel_init=nn.initializers.orthogonal(), name="recurrent"
    )(state)
    input_z, input_r, input_h = jnp.split(inputs, 3, axis=-1)
    recurrent_z, recurrent_r, recurrent_h = jnp.split(recurrent, 3, axis=-1)
    z = nn.sigmoid(input_z + recurrent_z)
    r = nn.sigmoid(input_r + recurrent_r)
    candidate = jnp.tanh(input_h + r * recurrent_h)
    return z * state + (1 - z) * candidate


class Projection(nn.Module):
  """A linear map without bias from size D_in to D_out, and its transpose.

  Attributes:
    input_size: D_in.
    output_size: D_out.
  """

  input_size: int
  output_size: int

  @nn.compact
  def __call__(self, x: jax.Array, transpose: bool = False) -> jax.Array:
    """[..., D_in] to [..., D_out], or the other way round."""
    kernel = self.param(
      "kernel",
      nn.initializers.glorot_uniform(),
      (self.input_size, self.output_size),
    )
    return x @ (kernel.T if transpose else kernel)


class SlotAttention(nn.Module):
  """Iterative attention in which K slots compete for N inputs (Algorithm 1).

  Attributes:
    num_slots: K, unless the call says otherwise.
    num_iterations: T, unless the call says otherwise.
    slot_size: D, of the slots and of the queries, keys and values.
    mlp_hidden_size: hidden units of the residual MLP; 0 leaves it out
      (Figure 14).
    epsilon: offset that keeps the weighted mean finite.
    epsilon_place: "attention" adds epsilon to every coefficient,
      "denominator" to their sum over the inputs (Figure 16).
    aggregation: "weighted_mean", "weighted_sum", or "weighted_sum_layer_norm"
      (Figure 7).
    softmax_axis: "slots" makes the slots compete; "inputs" is the attention of
      Transformers (Figure 10, which goes with aggregation="weighted_sum").
    update: "gru", or "none": the updates are the next slots (Figure 11).
    use_layer_norm: whether inputs, slots and the residual MLP's inputs are
      normalised (Figure 13).
    use_projections: whether q, k and v are learned; if not they are the
      identity, and inputs must have size D (soft k-means).
    temperature: of the softmax, "sqrt_d" or "one" (Figure 15).
    slot_init: "shared" draws all initial slots from one learned Gaussian,
      "per_slot" learns one for each slot (Figure 9).

  Raises:
    ValueError: for a choice that does not exist or a count below 1.
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
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    inputs: jax.Array,
    *,
    num_slots: int | None = None,
    num_iterations: int | None = None,
    slots: jax.Array | None = None,
    inputs_mask: jax.Array | None = None,
    example_ids: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """Groups the inputs into slots.

    Args:
      inputs: [B, N, D_inputs], a set: its order does not matter.
      num_slots: K for this call.
      num_iterations: T for this call.
      slots: initial slots [B, K, D], whose K counts; without them they are
        drawn with the random stream "slots" (`rngs={"slots": key}`).
      inputs_mask: bool [B, N], False for padding: whatever stands there changes
        nothing. Slots of a set that is all padding get updates of zero.
      example_ids: int [B]; the noise of an example's slots depends on the
        stream's key and on its id alone, not on its place in this batch.
        0 .. B-1 if left out.

    Returns:
      A dict of
        slots: [B, K, D] after the last iteration;
        attn: [B, T, N, K] of every iteration, sums to 1 over `softmax_axis`
          (epsilon not yet added), and is 0 for padding;
        slots_per_iteration: [B, T + 1, K, D], the initial slots first.

    Raises:
      ValueError: if K or T is below 1, if K exceeds the slots that
        slot_init="per_slot" has learned, or if a shape does not fit.
    """
    batch_size, num_inputs, inputs_size = inputs.shape
    if num_slots is None:
      num_slots = self.num_slots
    if num_iterations is None:
      num_iterations = self.num_iterations
    check_at_least("num_slots", num_slots, 1)
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

    mu, log_sigma = self._gaussian(num_slots)
    if slots is None:
      noise = self._noise(batch_size, num_slots, example_ids)
      slots = mu + jnp.exp(log_sigma) * noise
    elif slots.ndim != 3 or slots.shape[::2] != (batch_size, self.slot_size):
      raise ValueError(
        f"initial slots of shape {slots.shape} do not fit a batch of"
        f" {batch_size} with slot_size={self.slot_size}"
      )

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
    for _ in range(num_iterations):
      slots_prev = slots
      # Keys k = inputs W_k serve only k q^T = inputs (q W_k^T)^T: to project
      # the few queries, not the many inputs, gives the same for less. For the
      # same reason the values' kernel is applied to their weighted mean.
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
    """Weights of the values, [B, N, K]; over N they sum to 1 in a mean."""
    if self.epsilon_place == "attention":
      attn = _fill(attn + self.epsilon, is_input, 0.0)
    if self.aggregation != "weighted_mean":
      return attn
    total = jnp.sum(attn, axis=1, keepdims=True)
    if self.epsilon_place == "denominator":
      total = total + self.epsilon
    if is_input is not None:  # The mean of no inputs shall not be 0 / 0.
      total = jnp.where(is_input.any(axis=1, keepdims=True), total, 1.0)
    return attn / total

  def _gaussian(self, num_slots: int) -> tuple[jax.Array, jax.Array]:
    """Mean and log of the deviation of initial slots, [1, K or 1, D] each."""
    if self.slot_init == "per_slot" and num_slots > self.num_slots:
      raise ValueError(
        f"num_slots={num_slots}, but slot_init='per_slot' has learned a"
        f" Gaussian for each of {self.num_slots} slots and no more; only"
        " slot_init='shared' lets K grow after training"
      )
    num_gaussians = self.num_slots if self.slot_init == "per_slot" else 1
    # Each Gaussian as the reference's, Glorot over (1, 1, D): U(+-0.3038) at
    # D = 64.
    initializer = nn.initializers.glorot_uniform(in_axis=0, batch_axis=1)
    shape = (1, num_gaussians, self.slot_size)
    mu = self.param("slots_mu", initializer, shape)
    log_sigma = self.param("slots_log_sigma", initializer, shape)
    return mu[:, :num_slots], log_sigma[:, :num_slots]

  def _noise(
    self, batch_size: int, num_slots: int, example_ids: jax.Array | None
  ) -> jax.Array:
    """Standard normal [B, K, D], each example's from its own key."""
    ids = jnp.arange(batch_size) if example_ids is None else example_ids
    keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("slots"), ids)
    shape = (num_slots, self.slot_size)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _fill(x: jax.Array, is_input: jax.Array | None, value: float) -> jax.Array:
  """[B, N, ...] with `value` where is_input, [B, N, 1], is False."""
  return x if is_input is None else jnp.where(is_input, x, value)


def soft_k_means(num_slots: int, **fields) -> SlotAttention:
  """Soft k-means with dot-product scores (appendix B, last paragraph).

  `SlotAttention` without GRU, residual MLP, layer norms and projections: the
  inputs must have the size of the slots. `fields` are further fields of it.
  """
  return SlotAttention(
    num_slots=num_slots,
    update="none",
    mlp_hidden_size=0,
    use_layer_norm=False,
    use_projections=False,
    **fields,
  )
