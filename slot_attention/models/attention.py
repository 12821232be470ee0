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

# The official code is written in Keras, so the models use Keras' defaults.
Dense = functools.partial(
  nn.Dense, kernel_init=nn.initializers.glorot_uniform()
)
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-3)


class MLP(nn.Module):
  """Dense layers of the given sizes with ReLU between them."""

  sizes: tuple[int, ...]

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Maps [..., D_in] to [..., sizes[-1]]."""
    x = inputs
    for i, size in enumerate(self.sizes):
      x = Dense(size, name=f"dense_{i}")(nn.relu(x) if i else x)
    return x


class GRU(nn.Module):
  """Gated recurrent unit, as Keras' `GRUCell(reset_after=True)`.

  It computes the same function as `flax.linen.GRUCell` but initialises it as
  Keras does: Keras draws the kernels of the three gates as one matrix, [D_in,
  3D] Glorot for the inputs and [D, 3D] orthogonal for the state. Flax draws
  each gate separately.
  """

  @nn.compact
  def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
    """Maps state [..., D] and inputs [..., D_in] to the next state [..., D].

    The columns of both kernels are three blocks of D: update gate z, reset gate
    r, candidate.
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
    """Maps [..., D_in] to [..., D_out], or back if `transpose` is True."""
    kernel = self.param(
      "kernel",
      nn.initializers.glorot_uniform(),
      (self.input_size, self.output_size),
    )
    return x @ (kernel.T if transpose else kernel)


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
      adds it to their sum over the inputs (Figure 16).
    aggregation: "weighted_mean", "weighted_sum", or "weighted_sum_layer_norm"
      (Figure 7).
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
      "per_slot" from one learned Gaussian per slot (Figure 9).

  Raises:
    ValueError: if a choice does not exist or a number is too small.
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
        (`rngs={"slots": key}`).
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
      ValueError: if K or T is below 1; if K exceeds the number of slots that
        slot_init="per_slot" has learned; if both slots and noise are given; or
        if a shape does not fit.
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

    if slots is not None and noise is not None:
      raise ValueError(
        f"slots of shape {slots.shape} and noise of shape {noise.shape} exclude"
        " each other: noise makes the initial slots, slots replaces them"
      )
    for name, x in (("initial slots", slots), ("noise", noise)):
      if x is not None and (
        x.ndim != 3 or x.shape[::2] != (batch_size, self.slot_size)
      ):
        raise ValueError(
          f"{name} of shape {x.shape} must have shape [B, K, D] ="
          f" [{batch_size}, K, {self.slot_size}]"
        )
    if noise is not None:
      num_slots = noise.shape[1]
    mu, log_sigma = self._gaussian(num_slots)
    if slots is None:
      if noise is None:
        noise = self._noise(batch_size, num_slots, example_ids)
      slots = mu + jnp.exp(log_sigma) * noise

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
    if self.aggregation != "weighted_mean":
      return attn
    total = jnp.sum(attn, axis=1, keepdims=True)
    if self.epsilon_place == "denominator":
      total = total + self.epsilon
    if is_input is not None:  # A set without inputs would give 0 / 0.
      total = jnp.where(is_input.any(axis=1, keepdims=True), total, 1.0)
    return attn / total

  def _gaussian(self, num_slots: int) -> tuple[jax.Array, jax.Array]:
    """Returns mean and log standard deviation of the initial slots.

    Both have shape [1, K, D], or [1, 1, D] if all slots share one Gaussian.
    """
    if self.slot_init == "per_slot" and num_slots > self.num_slots:
      raise ValueError(
        f"num_slots={num_slots}, but slot_init='per_slot' has learned"
        f" Gaussians for {self.num_slots} slots only; K can grow after training"
        " only with slot_init='shared'"
      )
    num_gaussians = self.num_slots if self.slot_init == "per_slot" else 1
    # As in the official code, each Gaussian is initialised by Glorot over
    # (1, 1, D), that is uniformly within +-0.3038 for D = 64.
    initializer = nn.initializers.glorot_uniform(in_axis=0, batch_axis=1)
    shape = (1, num_gaussians, self.slot_size)
    mu = self.param("slots_mu", initializer, shape)
    log_sigma = self.param("slots_log_sigma", initializer, shape)
    return mu[:, :num_slots], log_sigma[:, :num_slots]

  def _noise(
    self, batch_size: int, num_slots: int, example_ids: jax.Array | None
  ) -> jax.Array:
    """Draws standard normal noise [B, K, D], one key per example."""
    ids = jnp.arange(batch_size) if example_ids is None else example_ids
    shape = (num_slots, self.slot_size)
    return example_noise(self.make_rng("slots"), ids, shape)


def example_noise(
  key: jax.Array, example_ids: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Draws standard normal noise [B, *shape].

  The noise of an example depends only on the key and on its id in example_ids,
  int [B].
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, example_ids)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


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
