"""Tests of Algorithm 1 and of every switch of appendix B."""

import re

import flax.linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slot_attention.models import attention, layers
from slot_attention.models.attention import SlotAttention

# All sizes differ, so that a confusion of axes fails.
B, N, K, D, D_INPUTS = 2, 9, 5, 16, 12

SWITCHES = [
  {"aggregation": "weighted_sum"},
  {"aggregation": "weighted_sum_layer_norm"},
  {"softmax_axis": "inputs"},
  {"update": "none"},
  {"mlp_hidden_size": 0},
  {"mlp_hidden_size": 24},
  {"use_layer_norm": False},
  {"temperature": "one"},
  {"epsilon_place": "denominator", "epsilon": 0.1},
  {"epsilon": 0.1},
  {"aggregation": "normalized_sum"},
  {"slot_init": "per_slot"},
  {"slot_init": "queries"},
  {"num_slots": K + 1},
  {"num_iterations": 4},
  {"slot_size": D + 4},
]


def make(**fields) -> SlotAttention:
  return SlotAttention(
    **{"num_slots": K, "slot_size": D, "mlp_hidden_size": 20, **fields}
  )


def perturb(params, scale=0.3):
  """Adds noise, since the initial zeros and ones would hide mistakes."""
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(7), len(leaves))
  return jax.tree.unflatten(
    treedef,
    [
      leaf + scale * jax.random.normal(key, leaf.shape)
      for leaf, key in zip(leaves, keys)
    ],
  )


@pytest.fixture(name="inputs")
def _inputs():
  return jax.random.normal(jax.random.key(1), (B, N, D_INPUTS))


def init_and_apply(module, inputs, **kwargs):
  rngs = {"params": jax.random.key(2), "slots": jax.random.key(3)}
  params = perturb(module.init(rngs, inputs)["params"])
  apply = jax.jit(
    lambda params: module.apply(
      {"params": params}, inputs, rngs={"slots": jax.random.key(4)}, **kwargs
    )
  )
  return params, apply(params)


def test_outputs_have_the_documented_shapes(inputs):
  _, outputs = init_and_apply(make(), inputs)
  assert outputs["slots"].shape == (B, K, D)
  assert outputs["attn"].shape == (B, 3, N, K)
  assert outputs["slots_per_iteration"].shape == (B, 4, K, D)
  np.testing.assert_array_equal(
    outputs["slots"], outputs["slots_per_iteration"][:, -1]
  )


def test_equals_algorithm_1_written_out_in_numpy(inputs):
  """The transcription loops over images and slots."""
  module = make()
  slots = np.array(jax.random.normal(jax.random.key(5), (B, K, D)))
  params, outputs = init_and_apply(module, inputs, slots=jnp.array(slots))
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def layer_norm(x, name):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-3)
    return x * p[name]["scale"] + p[name]["bias"]

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  def gru(h, x):
    thirds = [slice(0, D), slice(D, 2 * D), slice(2 * D, 3 * D)]
    of_x = x @ p["gru"]["input"]["kernel"] + p["gru"]["input"]["bias"]
    of_h = h @ p["gru"]["recurrent"]["kernel"] + p["gru"]["recurrent"]["bias"]
    z, r = (sigmoid(of_x[gate] + of_h[gate]) for gate in thirds[:2])
    candidate = np.tanh(of_x[thirds[2]] + r * of_h[thirds[2]])
    return z * h + (1 - z) * candidate

  def mlp(x):
    first, second = p["mlp"]["dense_0"], p["mlp"]["dense_1"]
    hidden = np.maximum(x @ first["kernel"] + first["bias"], 0)
    return hidden @ second["kernel"] + second["bias"]

  for b in range(B):
    x = [
      layer_norm(np.asarray(row, np.float64), "norm_inputs")
      for row in inputs[b]
    ]
    k = [row @ p["project_k"]["kernel"] for row in x]
    v = [row @ p["project_v"]["kernel"] for row in x]
    state = list(slots[b].astype(np.float64))
    for t in range(3):
      q = [
        layer_norm(s, "norm_slots") @ p["project_q"]["kernel"] for s in state
      ]
      logits = np.array([[key @ query for query in q] for key in k]) / D**0.5
      attn = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
      np.testing.assert_allclose(outputs["attn"][b, t], attn, atol=1e-5)
      for slot in range(K):
        weights = attn[:, slot] + 1e-8
        updates = sum(w * value for w, value in zip(weights, v)) / weights.sum()
        state[slot] = gru(state[slot], updates)
        state[slot] = state[slot] + mlp(layer_norm(state[slot], "norm_mlp"))
    np.testing.assert_allclose(outputs["slots"][b], state, atol=1e-4, rtol=1e-4)


def test_projecting_queries_and_means_equals_projecting_inputs():
  """Compares logits, updates and all gradients in float64."""
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 6)
    x = jax.random.normal(keys[0], (B, N, D_INPUTS), jnp.float64)
    q = jax.random.normal(keys[1], (B, K, D), jnp.float64)
    weights = jax.random.normal(keys[2], (B, N, K), jnp.float64)
    kernel = jax.random.normal(keys[3], (D_INPUTS, D), jnp.float64)
    cotangents = (
      jax.random.normal(keys[4], (B, N, K), jnp.float64),
      jax.random.normal(keys[5], (B, K, D), jnp.float64),
    )

    def plain(kernel, x, q, weights):
      projected = x @ kernel
      logits = jnp.einsum("bnd,bkd->bnk", projected, q)
      return logits, jnp.einsum("bnk,bnd->bkd", weights, projected)

    def fast(kernel, x, q, weights):
      layer = layers.Projection(D_INPUTS, D)
      project = layer.bind({"params": {"kernel": kernel}})
      logits = jnp.einsum("bnd,bkd->bnk", x, project(q, transpose=True))
      return logits, project(jnp.einsum("bnk,bnd->bkd", weights, x))

    results = []
    for function in (plain, fast):
      outputs, gradients = jax.vjp(function, kernel, x, q, weights)
      results.append((outputs, gradients(cotangents)))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
      *results,
    )


def test_gru_equals_flax_gru_cell():
  state = jax.random.normal(jax.random.key(0), (B, K, D))
  inputs = jax.random.normal(jax.random.key(1), (B, K, D_INPUTS))
  gru = layers.GRU()
  params = perturb(gru.init(jax.random.key(2), state, inputs)["params"])
  of_input = [
    jnp.split(params["input"][name], 3, -1) for name in ("kernel", "bias")
  ]
  of_state = [
    jnp.split(params["recurrent"][name], 3, -1) for name in ("kernel", "bias")
  ]
  flax_params = {}
  for i, gate in enumerate("zrn"):
    flax_params[f"i{gate}"] = {"kernel": of_input[0][i], "bias": of_input[1][i]}
    flax_params[f"h{gate}"] = {"kernel": of_state[0][i]}
    if gate == "n":
      flax_params["hn"]["bias"] = of_state[1][i]
    else:  # Flax has one bias for the sum of Keras' two.
      flax_params[f"i{gate}"]["bias"] += of_state[1][i]
  expected, _ = nn.GRUCell(D).apply({"params": flax_params}, state, inputs)
  actual = gru.apply({"params": params}, state, inputs)
  np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_initial_parameters_are_drawn_as_keras_draws_them():
  module = SlotAttention(num_slots=K)
  inputs = jnp.zeros((1, N, 64))
  rngs = {"params": jax.random.key(0), "slots": jax.random.key(1)}
  params = module.init(rngs, inputs)["params"]

  def is_uniform(x, limit):
    bound = np.abs(x).max()
    return (
      0.9 * limit < bound <= limit
      and abs(np.std(x) / (limit / 3**0.5) - 1) < 0.15
    )

  limit_of_gaussian = (6 / (1 + 64)) ** 0.5
  assert limit_of_gaussian == pytest.approx(0.3038, abs=1e-4)
  assert params["slots_mu"].shape == (1, 1, 64)
  assert is_uniform(params["slots_mu"], limit_of_gaussian)
  assert is_uniform(params["slots_log_sigma"], limit_of_gaussian)
  assert is_uniform(params["project_q"]["kernel"], (6 / 128) ** 0.5)
  assert "bias" not in params["project_q"]
  # Glorot and orthogonal over the three gates together.
  assert is_uniform(params["gru"]["input"]["kernel"], (6 / (64 + 192)) ** 0.5)
  recurrent = params["gru"]["recurrent"]["kernel"]
  assert recurrent.shape == (64, 192)
  np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(64), atol=1e-5)
  for bias in (
    params["gru"]["input"]["bias"],
    params["mlp"]["dense_0"]["bias"],
  ):
    np.testing.assert_array_equal(bias, 0)


def test_per_slot_gaussians_are_drawn_as_widely_as_the_shared_one(inputs):
  params, _ = init_and_apply(make(slot_init="per_slot"), inputs)
  assert params["slots_mu"].shape == (1, K, D)
  fresh = SlotAttention(num_slots=200, slot_init="per_slot").init(
    {"params": jax.random.key(0), "slots": jax.random.key(1)}, inputs
  )["params"]["slots_mu"]
  assert np.abs(fresh).max() == pytest.approx((6 / 65) ** 0.5, rel=0.01)


def test_proposition_1_outputs_ignore_the_order_of_inputs(inputs):
  slots = jax.random.normal(jax.random.key(5), (B, K, D))
  order = np.random.default_rng(0).permutation(N)
  module = make()
  params, outputs = init_and_apply(module, inputs, slots=slots)
  permuted = module.apply({"params": params}, inputs[:, order], slots=slots)
  np.testing.assert_allclose(permuted["slots"], outputs["slots"], atol=1e-5)
  np.testing.assert_allclose(
    permuted["attn"], outputs["attn"][:, :, order], atol=1e-5
  )
  # The test is not vacuous: inputs and their order change the outputs.
  other = module.apply({"params": params}, inputs**2, slots=slots)
  assert np.abs(other["slots"] - outputs["slots"]).max() > 1e-2
  assert np.abs(permuted["attn"] - outputs["attn"]).max() > 1e-2


def test_proposition_1_outputs_follow_the_order_of_slots(inputs):
  slots = jax.random.normal(jax.random.key(5), (B, K, D))
  order = np.random.default_rng(1).permutation(K)
  module = make()
  params, outputs = init_and_apply(module, inputs, slots=slots)
  permuted = module.apply({"params": params}, inputs, slots=slots[:, order])
  np.testing.assert_allclose(
    permuted["slots"], outputs["slots"][:, order], atol=1e-5
  )
  np.testing.assert_allclose(
    permuted["attn"], outputs["attn"][..., order], atol=1e-5
  )
  assert np.abs(permuted["slots"] - outputs["slots"]).max() > 1e-2


def test_slots_compete_for_every_input(inputs):
  _, outputs = init_and_apply(make(), inputs)
  np.testing.assert_allclose(outputs["attn"].sum(-1), 1, atol=1e-5)
  assert np.abs(np.asarray(outputs["attn"].sum(-2)) - 1).max() > 0.1


def test_a_slot_gains_attention_only_at_the_cost_of_others(inputs):
  """One slot affects the others only by the softmax over slots."""
  slots = jax.random.normal(jax.random.key(5), (B, K, D))
  changed = slots.at[:, 0].set(3.0)
  for axis, others_change in (("slots", True), ("inputs", False)):
    module = make(softmax_axis=axis, num_iterations=1)
    params, before = init_and_apply(module, inputs, slots=slots)
    after = module.apply({"params": params}, inputs, slots=changed)
    difference = np.abs(after["slots"] - before["slots"])[:, 1:].max()
    assert (difference > 1e-3) == others_change


def test_softmax_over_inputs_makes_the_mean_a_sum(inputs):
  slots = jax.random.normal(jax.random.key(5), (B, K, D))
  params, mean = init_and_apply(
    make(softmax_axis="inputs"), inputs, slots=slots
  )
  module = make(softmax_axis="inputs", aggregation="weighted_sum")
  total = module.apply({"params": params}, inputs, slots=slots)
  np.testing.assert_allclose(mean["slots"], total["slots"], atol=1e-5)


def apply_with_shared_parameters(module, params, inputs):
  """Applies a module with those of `params` that fit, and the same noise."""
  rngs = {"params": jax.random.key(2), "slots": jax.random.key(4)}
  own = flatten_dict(perturb(module.init(rngs, inputs)["params"]))
  shared = flatten_dict(params)
  mixed = {
    path: shared[path]
    if path in shared and shared[path].shape == leaf.shape
    else leaf
    for path, leaf in own.items()
  }
  return module.apply({"params": unflatten_dict(mixed)}, inputs, rngs=rngs)


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_changes_the_output(inputs, switch):
  params, default = init_and_apply(make(), inputs)
  module = make(**switch)
  outputs = apply_with_shared_parameters(module, params, inputs)
  if outputs["slots"].shape == default["slots"].shape:
    assert np.abs(outputs["slots"] - default["slots"]).max() > 1e-3
  assert np.isfinite(outputs["slots"]).all()
  assert outputs["slots"].shape == (B, module.num_slots, module.slot_size)
  assert outputs["attn"].shape[1] == module.num_iterations


def test_without_a_switch_the_output_does_not_change(inputs):
  """This is the control of the test above."""
  params, default = init_and_apply(make(), inputs)
  outputs = apply_with_shared_parameters(make(), params, inputs)
  np.testing.assert_allclose(outputs["slots"], default["slots"], atol=1e-5)


def test_soft_k_means_is_its_own_update_rule(inputs):
  inputs = jnp.concatenate([inputs, inputs[..., : D - D_INPUTS]], -1)
  module = attention.soft_k_means(K, slot_size=D)
  params, outputs = init_and_apply(module, inputs)
  assert set(params) == {"slots_mu", "slots_log_sigma"}
  slots = np.asarray(outputs["slots_per_iteration"][:, 0], np.float64)
  x = np.asarray(inputs, np.float64)
  for _ in range(3):
    scores = np.exp(x @ slots.transpose(0, 2, 1) / D**0.5)
    responsibility = scores / scores.sum(-1, keepdims=True)
    share = responsibility / responsibility.sum(1, keepdims=True)
    slots = share.transpose(0, 2, 1) @ x
  np.testing.assert_allclose(outputs["slots"], slots, atol=1e-5)


def test_normalized_sum_divides_by_the_number_of_inputs(inputs):
  module = make(
    aggregation="normalized_sum",
    update="none",
    mlp_hidden_size=0,
    num_iterations=1,
    epsilon=0.0,
  )
  mask = jnp.array([[True] * N, [True] * (N - 4) + [False] * 4])
  params, outputs = init_and_apply(module, inputs, inputs_mask=mask)
  normalize = layers.LayerNorm()
  norm_inputs = normalize.apply({"params": params["norm_inputs"]}, inputs)
  values = norm_inputs @ params["project_v"]["kernel"]
  sums = np.einsum("bnk,bnd->bkd", outputs["attn"][:, 0], values)
  sums = sums / np.array([N, N - 4])[:, None, None]
  np.testing.assert_allclose(outputs["slots"], sums, atol=1e-5)


def loss_of(module, params, inputs, **kwargs):
  outputs = module.apply(
    {"params": params}, inputs, rngs={"slots": jax.random.key(2)}, **kwargs
  )
  return jnp.sum(jnp.sin(outputs["slots"]))


def test_the_implicit_gradient_is_that_of_the_last_iteration(inputs):
  unrolled, implicit = make(), make(gradient="implicit")
  params, outputs = init_and_apply(unrolled, inputs)
  same = implicit.apply(
    {"params": params}, inputs, slots=outputs["slots_per_iteration"][:, 0]
  )
  np.testing.assert_allclose(same["slots"], outputs["slots"], atol=1e-4)

  def last(params, inputs):
    before = outputs["slots_per_iteration"][:, -2]
    return loss_of(unrolled, params, inputs, slots=before, num_iterations=1)

  def all_of(params, inputs):
    first = outputs["slots_per_iteration"][:, 0]
    return loss_of(implicit, params, inputs, slots=first)

  expected = jax.grad(last, (0, 1))(params, inputs)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
    jax.grad(all_of, (0, 1))(params, inputs),
    expected,
  )


def test_memory_of_the_implicit_gradient_does_not_grow_with_t(inputs):
  inputs = jnp.tile(inputs, (1, 50, 1))
  params, _ = init_and_apply(make(), inputs)

  def num_bytes(gradient, num_iterations):
    module = make(gradient=gradient, num_iterations=num_iterations)
    step = jax.jit(jax.grad(lambda params: loss_of(module, params, inputs)))
    return step.lower(params).compile().memory_analysis().temp_size_in_bytes

  assert num_bytes("unrolled", 6) > 2 * num_bytes("unrolled", 2)
  assert num_bytes("implicit", 6) < 1.1 * num_bytes("implicit", 2)


def test_bi_level_queries_get_the_gradient_of_the_slots_before_the_last(inputs):
  module = make(slot_init="queries", gradient="bi_level")
  params, outputs = init_and_apply(module, inputs)
  assert "slots_log_sigma" not in params
  np.testing.assert_array_equal(
    outputs["slots_per_iteration"][:, 0],
    np.repeat(params["slots_mu"], B, axis=0),
  )

  def last(slots):
    return loss_of(module, params, inputs, slots=slots, num_iterations=1)

  before = outputs["slots_per_iteration"][:, -2]
  expected = jax.grad(last)(before).sum(axis=0, keepdims=True)
  gradient = jax.grad(lambda params: loss_of(module, params, inputs))(params)
  np.testing.assert_allclose(gradient["slots_mu"], expected, atol=1e-5)
  assert np.abs(expected).max() > 1e-3


def test_calls_can_override_k_and_t(inputs):
  module = make()
  params, outputs = init_and_apply(module, inputs)
  more = module.apply(
    {"params": params},
    inputs,
    num_slots=K + 2,
    num_iterations=6,
    rngs={"slots": jax.random.key(4)},
  )
  assert more["slots"].shape == (B, K + 2, D)
  assert more["attn"].shape == (B, 6, N, K + 2)
  longer = module.apply(
    {"params": params},
    inputs,
    num_iterations=6,
    rngs={"slots": jax.random.key(4)},
  )
  np.testing.assert_allclose(
    longer["slots_per_iteration"][:, :4],
    outputs["slots_per_iteration"],
    atol=1e-5,
  )


@pytest.mark.parametrize("slot_init", ["shared", "per_slot"])
def test_given_noise_replaces_the_drawn_noise(inputs, slot_init):
  module = make(slot_init=slot_init)
  params, drawn = init_and_apply(module, inputs)
  # mu + exp(log_sigma) * noise, solved for the noise.
  sigma = jnp.exp(params["slots_log_sigma"])
  slots = drawn["slots_per_iteration"][:, 0]
  noise = (slots - params["slots_mu"]) / sigma
  given = module.apply({"params": params}, inputs, noise=noise)  # No rngs.
  np.testing.assert_allclose(given["slots"], drawn["slots"], atol=1e-4)
  other = module.apply({"params": params}, inputs, noise=noise[:, ::-1])
  assert np.abs(other["slots"] - drawn["slots"]).max() > 1e-2
  fewer = module.apply({"params": params}, inputs, noise=noise[:, : K - 1])
  assert fewer["slots"].shape == (B, K - 1, D)
  more = jnp.concatenate([noise, noise], axis=1)
  if slot_init == "shared":
    more = module.apply({"params": params}, inputs, noise=more)
    assert more["attn"].shape == (B, 3, N, 2 * K)
  else:
    with pytest.raises(ValueError, match="initial slots for 5 slots only"):
      module.apply({"params": params}, inputs, noise=more)


@pytest.mark.parametrize("name, is_zero", [("noise", False), ("slots", True)])
def test_gradients_reach_the_gaussian_from_noise_not_from_slots(
  inputs, name, is_zero
):
  module = make()
  params, _ = init_and_apply(module, inputs)
  given = {name: jax.random.normal(jax.random.key(5), (B, K, D))}

  def loss(params):
    outputs = module.apply({"params": params}, inputs, **given)
    return jnp.sum(jnp.sin(outputs["slots"]))

  grads = jax.grad(loss)(params)
  for parameter in ("slots_mu", "slots_log_sigma"):
    assert (np.abs(grads[parameter]).max() == 0) == is_zero


def test_noise_of_an_example_depends_on_its_id_not_on_its_place(inputs):
  module = make()
  rngs = {"params": jax.random.key(2), "slots": jax.random.key(3)}
  params = module.init(rngs, inputs)["params"]

  def initial_slots(ids):
    ids = jnp.array(ids)
    x = jnp.broadcast_to(inputs[:1], (len(ids), N, D_INPUTS))
    outputs = module.apply({"params": params}, x, example_ids=ids, rngs=rngs)
    return np.asarray(outputs["slots_per_iteration"][:, 0])

  np.testing.assert_array_equal(
    initial_slots([3, 8, 1])[1], initial_slots([8])[0]
  )
  assert np.abs(initial_slots([3]) - initial_slots([8])).max() > 1e-2


# The switches that padding could affect.
PADDING_SWITCHES = [
  {},
  {"softmax_axis": "inputs"},
  {"aggregation": "weighted_sum"},
  {"epsilon": 0.1},
  {"epsilon": 0.1, "epsilon_place": "denominator"},
]


@pytest.mark.parametrize("switch", PADDING_SWITCHES, ids=str)
def test_padding_changes_nothing(inputs, switch):
  """Outputs and gradients are those without padding, even if it is NaN."""
  module = make(num_iterations=1, **switch)
  params, _ = init_and_apply(module, inputs)
  length = N - 4
  mask = jnp.array([[True] * N, [True] * length + [False] * 4])
  padded = jnp.where(mask[..., None], inputs, jnp.nan)

  def run(inputs, mask, ids):
    def loss(params, inputs):
      outputs = module.apply(
        {"params": params},
        inputs,
        inputs_mask=mask,
        example_ids=jnp.array(ids),
        rngs={"slots": jax.random.key(4)},
      )
      # The loss of the shorter set alone.
      return jnp.sum(jnp.sin(outputs["slots"][-1])), outputs

    grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (params_grads, inputs_grads), outputs = grad(params, inputs)
    return {
      "slots": outputs["slots"][-1],
      "attn": outputs["attn"][-1, :, :length],
      "inputs_grads": inputs_grads[-1, :length],
      "params_grads": params_grads,
    }, (outputs["attn"][-1, :, length:], inputs_grads[-1, length:])

  actual, of_padding = run(padded, mask, [0, 1])
  expected, _ = run(inputs[1:, :length], None, [1])
  for x in of_padding:
    assert x.size and not x.any()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
    actual,
    expected,
  )


def test_without_padding_the_mask_changes_nothing(inputs):
  module = make()
  params, plain = init_and_apply(module, inputs)
  for mask, equal in ((jnp.ones((B, N)), True), (jnp.eye(B, N), False)):
    outputs = module.apply(
      {"params": params},
      inputs,
      inputs_mask=mask,
      rngs={"slots": jax.random.key(4)},
    )
    difference = np.abs(outputs["slots"] - plain["slots"]).max()
    assert (difference < 1e-5) == equal


@pytest.mark.parametrize("switch", PADDING_SWITCHES, ids=str)
def test_a_set_that_is_all_padding_gives_finite_results(inputs, switch):
  module = make(num_iterations=1, **switch)
  params, _ = init_and_apply(module, inputs)

  def loss(params):
    outputs = module.apply(
      {"params": params},
      inputs,
      inputs_mask=jnp.zeros((B, N), bool),
      rngs={"slots": jax.random.key(4)},
    )
    return outputs["slots"].sum()

  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, grads)))


def test_gradients_reach_every_parameter(inputs):
  for switch in ({}, {"slot_init": "per_slot"}):
    module = make(**switch)
    params, _ = init_and_apply(module, inputs)

    def loss(params, module=module):
      outputs = module.apply(
        {"params": params}, inputs, rngs={"slots": jax.random.key(4)}
      )
      return jnp.sum(jnp.sin(outputs["slots"]))

    for path, grad in jax.tree_util.tree_leaves_with_path(
      jax.grad(loss)(params)
    ):
      assert np.abs(grad).max() > 0, path


@pytest.mark.parametrize(
  "fields, words",
  [
    ({"num_slots": 0}, "num_slots=0 must be at least 1"),
    ({"num_iterations": 0}, "num_iterations=0 must be at least 1"),
    ({"update": "lstm"}, "update='lstm' is not one of gru, none"),
    ({"softmax_axis": "pixels"}, "is not one of slots, inputs"),
    ({"aggregation": "max"}, "weighted_mean, weighted_sum"),
    ({"temperature": "hot"}, "sqrt_d, one"),
    ({"epsilon_place": "nowhere"}, "attention, denominator"),
    ({"slot_init": "zeros"}, "shared, per_slot"),
    (
      {"slot_init": "queries", "gradient": "implicit"},
      "slot_init='queries' would not be learned: use 'bi_level'",
    ),
  ],
)
def test_bad_fields_are_named_with_their_choices(fields, words):
  with pytest.raises(ValueError, match=words):
    make(**fields)


def test_bad_calls_say_what_is_wrong(inputs):
  rngs = {"params": jax.random.key(2), "slots": jax.random.key(3)}
  with pytest.raises(ValueError, match="learned initial slots for 5 slots"):
    make(slot_init="per_slot").init(rngs, inputs, num_slots=K + 1)
  fewer = make(slot_init="per_slot").init_with_output(
    rngs, inputs, num_slots=K - 1
  )[0]
  assert fewer["slots"].shape == (B, K - 1, D)
  with pytest.raises(ValueError, match="inputs of size 12 do not fit"):
    make(use_projections=False).init(rngs, inputs)
  for name in ("slots", "noise"):
    for shape in ((B, K, D + 1), (B + 1, K, D), (K, D)):
      words = rf"{name} of shape {re.escape(str(shape))} .* \[2, K, 16\]"
      with pytest.raises(ValueError, match=words):
        make().init(rngs, inputs, **{name: jnp.zeros(shape)})
  both = {name: jnp.zeros((B, K, D)) for name in ("slots", "noise")}
  with pytest.raises(ValueError, match=r"\(2, 5, 16\) exclude each other"):
    make().init(rngs, inputs, **both)
  feature_map = inputs.reshape(B, 3, 3, D_INPUTS)
  with pytest.raises(
    ValueError,
    match=r"\(2, 3, 3, 12\) must have shape \[B, N, D\]; reshape",
  ):
    make().init(rngs, feature_map)
  with pytest.raises(ValueError, match="num_slots=0"):
    make().init(rngs, inputs, num_slots=0)
  with pytest.raises(ValueError, match=r"inputs_mask of shape \(2, 10\)"):
    make().init(rngs, inputs, inputs_mask=jnp.ones((B, N + 1)))
