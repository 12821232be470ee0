"""Tests of Sinkhorn attention and MESH."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from slot_attention.models import mesh
from tests.models import reference
from tests.models.test_attention import perturb
from tests.models.test_invariant import gru, mlp

# All sizes differ, so that a confusion of axes fails.
B, N, K, D, D_INPUTS, T = 2, 7, 3, 8, 6, 2
# Fewer than the defaults, since every iteration is compiled.
SINKHORN_ITERATIONS, MESH_STEPS = 3, 1
RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def make(**fields):
  return mesh.MeshAttention(
    **{
      "num_slots": K,
      "num_iterations": T,
      "slot_size": D,
      "mlp_hidden_size": 10,
      "sinkhorn_iterations": SINKHORN_ITERATIONS,
      "mesh_steps": MESH_STEPS,
      **fields,
    }
  )


@pytest.fixture(name="inputs")
def _inputs():
  return jax.random.normal(jax.random.key(2), (B, N, D_INPUTS))


def init(module, inputs):
  return jax.jit(lambda: perturb(module.init(RNGS, inputs)["params"]))()


def apply(module, params, inputs, num_slots=None, num_iterations=None, **given):
  @jax.jit
  def compiled(params, inputs, given):
    return module.apply(
      {"params": params},
      inputs,
      rngs=RNGS,
      num_slots=num_slots,
      num_iterations=num_iterations,
      **given,
    )

  return compiled(params, inputs, given)


def numpy_sinkhorn(cost, a, b, v, num_iterations):
  """Scales rows and columns of exp(-cost) in turn, without logarithms."""
  kernel, columns = np.exp(-cost), np.exp(v)
  for _ in range(num_iterations):
    rows = a / (kernel @ columns)
    columns = b / (kernel.T @ rows)
  return rows[:, None] * kernel * columns, np.log(columns)


def numpy_mesh(cost, a, b, num_steps, rate, num_iterations):
  """Takes gradients by finite differences."""
  v = np.zeros_like(b)

  def mean_entropy(cost):
    plan, _ = numpy_sinkhorn(cost, a, b, v, num_iterations)
    return np.mean(scipy.special.entr(np.clip(plan, 1e-20, 1)))

  for _ in range(num_steps):
    gradient = np.zeros_like(cost)
    for i in np.ndindex(cost.shape):
      step = np.zeros_like(cost)
      step[i] = 1e-5
      gradient[i] = mean_entropy(cost + step) - mean_entropy(cost - step)
    _, v = numpy_sinkhorn(cost, a, b, v, num_iterations)
    cost = cost - rate * gradient / np.linalg.norm(gradient)
  return cost, v


@pytest.mark.parametrize("mesh_steps", [0, 2])
def test_equals_the_equations_written_out_in_numpy(
  inputs, mesh_steps, monkeypatch
):
  """In float64, and without the noise of the costs."""
  monkeypatch.setattr(mesh, "_COST_NOISE", 0.0)
  module = make(mesh_steps=mesh_steps, mesh_rate=1.0)
  params = init(module, inputs)
  with jax.enable_x64(True):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    outputs = apply(module, params, jnp.asarray(inputs, jnp.float64))
    outputs = jax.tree.map(np.asarray, outputs)
  p = reference.float64(params)

  def norm(x, name):
    return reference.norm(x, p[name], -1, 1e-3)

  def amounts(x, name):
    hidden = reference.relu(reference.dense(x, p[name]["dense_0"]))
    logits = hidden @ p[name]["dense_1"]["kernel"][:, 0]
    return K * reference.softmax(logits, 0)

  assert outputs["slots"].shape == (B, K, D)
  assert outputs["slots_per_iteration"].shape == (B, T + 1, K, D)
  for b in range(B):
    x = norm(np.asarray(inputs[b], np.float64), "norm_inputs")
    k = x @ p["project_k"]["kernel"]
    v = x @ p["project_v"]["kernel"]
    given = amounts(x, "input_amounts")
    slots = outputs["slots_per_iteration"][b, 0]
    for t in range(T):
      state = norm(slots, "norm_slots")
      taken = amounts(state, "slot_amounts")
      q = state @ p["project_q"]["kernel"]
      cost = np.linalg.norm(k[:, None] - q, axis=-1)
      cost, potential = numpy_mesh(
        cost, given, taken, mesh_steps, 1.0, SINKHORN_ITERATIONS
      )
      plan, _ = numpy_sinkhorn(
        cost, given, taken, potential, SINKHORN_ITERATIONS
      )
      np.testing.assert_allclose(outputs["plan"][b, t], plan, atol=1e-5)
      attn = plan / plan.sum(1, keepdims=True)
      np.testing.assert_allclose(outputs["attn"][b, t], attn, atol=1e-5)
      slots = gru(slots, plan.T @ v, p["gru"])
      slots = slots + mlp(norm(slots, "norm_mlp"), p["mlp"])
      actual = outputs["slots_per_iteration"][b, t + 1]
      np.testing.assert_allclose(actual, slots, atol=1e-5)


def random_problem():
  """Returns costs [B, N, K] and logarithms of amounts that sum to K."""
  keys = jax.random.split(jax.random.key(3), 3)
  cost = 2 * jax.random.uniform(keys[0], (B, N, K))
  log_a = jax.nn.log_softmax(jax.random.normal(keys[1], (B, N))) + np.log(K)
  log_b = jax.nn.log_softmax(jax.random.normal(keys[2], (B, K))) + np.log(K)
  return cost, log_a, log_b


@jax.jit
def plan_of(cost, log_a, log_b, v):
  return mesh.sinkhorn(cost, log_a, log_b, v, 5)


def test_a_plan_gives_and_takes_the_amounts():
  cost, log_a, log_b = random_problem()
  plan, v = plan_of(cost, log_a, log_b, jnp.zeros((B, K)))
  np.testing.assert_allclose(plan.sum(1), np.exp(log_b), atol=1e-5)
  np.testing.assert_allclose(plan.sum(2), np.exp(log_a), atol=1e-3)
  # Later iterations start where earlier ones have ended.
  again, _ = plan_of(cost, log_a, log_b, v)
  np.testing.assert_allclose(again.sum(2), np.exp(log_a), atol=1e-5)


def test_each_step_lowers_the_entropy():
  cost, log_a, log_b = random_problem()
  entropies = []
  for num_steps in (0, 1, 4):
    changed, v = jax.jit(
      lambda cost, num_steps=num_steps: mesh.minimize_entropy(
        cost, log_a, log_b, num_steps=num_steps, rate=1.0, num_iterations=5
      )
    )(cost)
    moved = np.linalg.norm(changed - cost, axis=(1, 2))
    np.testing.assert_array_less(moved, num_steps + 1e-4)
    if num_steps == 1:
      np.testing.assert_allclose(moved, 1, atol=1e-5)
    entropies.append(mesh.entropy(plan_of(changed, log_a, log_b, v)[0]))
  assert (np.diff(entropies, axis=0) < 0).all()
  assert (entropies[-1] < 0.85 * entropies[0]).all()


def test_mesh_parts_slots_that_are_equal_and_sinkhorn_does_not(inputs):
  """The noise of the costs breaks ties."""
  slots = jnp.ones((B, K, D))
  for mesh_steps, parts in ((0, False), (4, True)):
    module = make(mesh_steps=mesh_steps)
    params = init(module, inputs)
    outputs = apply(module, params, inputs, slots=slots)["slots"]
    difference = np.abs(outputs[:, 1:] - outputs[:, :1]).max(axis=(1, 2))
    assert ((difference > 1e-2) == parts).all()


def test_outputs_ignore_the_order_of_inputs_and_follow_that_of_slots(inputs):
  module = make(mesh_steps=0)
  params = init(module, inputs)
  slots = jax.random.normal(jax.random.key(5), (B, K, D))
  plain = apply(module, params, inputs, slots=slots)["slots"]
  order = np.random.default_rng(0).permutation(N)
  permuted = apply(module, params, inputs[:, order], slots=slots)["slots"]
  np.testing.assert_allclose(permuted, plain, atol=1e-4)
  turned = apply(module, params, inputs, slots=slots[:, ::-1])["slots"]
  np.testing.assert_allclose(turned, plain[:, ::-1], atol=1e-4)
  assert np.abs(turned - plain).max() > 1e-2


def test_the_attention_has_a_number_where_a_plan_is_all_zero(inputs):
  module = make()
  params = jax.tree.map(lambda x: 100 * x, init(module, inputs))
  outputs = apply(module, params, inputs)
  sums = outputs["plan"].sum(axis=-1)
  assert (sums == 0).any()
  np.testing.assert_allclose(outputs["attn"].sum(axis=-1), 1, atol=1e-5)


def test_k_and_t_of_a_call_and_ids(inputs):
  module = make()
  params = init(module, inputs)
  more = apply(module, params, inputs, num_slots=K + 2, num_iterations=1)
  assert more["slots"].shape == (B, K + 2, D)
  assert more["attn"].shape == more["plan"].shape == (B, 1, N, K + 2)
  np.testing.assert_allclose(more["plan"].sum((2, 3)), K + 2, rtol=1e-4)
  same = inputs[jnp.array([0, 0])]
  one = apply(module, params, same, example_ids=jnp.array([4, 7]))["slots"]
  two = apply(module, params, same, example_ids=jnp.array([7, 4]))["slots"]
  np.testing.assert_allclose(one, two[::-1], atol=1e-4)
  assert np.abs(one - two).max() > 1e-2


def test_gradients_are_finite_and_reach_every_parameter(inputs):
  module = make()
  params = init(module, inputs)

  def loss(params):
    outputs = module.apply({"params": params}, inputs, rngs=RNGS)
    return jnp.sum(jnp.sin(outputs["slots"]))

  grads = jax.jit(jax.grad(loss))(params)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0, path


def test_the_gradient_of_a_step_is_a_constant():
  """So the derivative of the new cost by the old one is the identity."""
  cost, log_a, log_b = random_problem()
  tangent = jax.random.normal(jax.random.key(6), cost.shape)

  @jax.jit
  def derivative(cost):
    return jax.jvp(
      lambda cost: mesh.minimize_entropy(
        cost, log_a, log_b, num_steps=2, rate=3.0, num_iterations=5
      )[0],
      (cost,),
      (tangent,),
    )[1]

  np.testing.assert_allclose(derivative(cost), tangent, atol=1e-6)


def test_bad_fields_and_calls_say_what_is_wrong(inputs):
  for fields, words in (
    ({"sinkhorn_iterations": 0}, "sinkhorn_iterations=0 must be at least 1"),
    ({"mesh_steps": -1}, "mesh_steps=-1 must be at least 0"),
    ({"mesh_rate": -0.5}, "mesh_rate=-0.5 must be at least 0"),
  ):
    with pytest.raises(ValueError, match=words):
      make(**fields)
  both = {name: jnp.zeros((B, K, D)) for name in ("slots", "noise")}
  for kwargs, words in (
    ({"num_slots": 0}, "num_slots=0"),
    ({"noise": jnp.zeros((B, K, D + 1))}, r"noise of shape \(2, 3, 9\)"),
    (both, "exclude each other"),
  ):
    with pytest.raises(ValueError, match=words):
      make().init(RNGS, inputs, **kwargs)
