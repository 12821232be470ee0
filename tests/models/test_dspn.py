"""Tests of DSPN against a transcription in NumPy, and of its loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import configs
from slot_attention import metrics, models, tasks
from slot_attention.data import clevr
from slot_attention.models import dspn
from tests.models import reference
from tests.models.test_slot_models import conv, dense, norm

B, K, P, D, T, PIECES = 2, 3, 5, 6, 2, 4
RATE = 8.0

RNGS = {"params": jax.random.key(0)}


def small_model(**fields):
  return models.DSPN(
    encoder=models.Encoder(
      features=(4,), strides=(2,), kernel_size=3, mlp_size=5
    ),
    set_encoder=models.SetEncoder(
      code_size=D, hidden_size=7, num_pieces=PIECES
    ),
    set_decoder=models.SetDecoder(
      **{
        "num_slots": K,
        "num_iterations": T,
        "inner_learning_rate": RATE,
        "num_outputs": P,
        **fields,
      }
    ),
  )


@pytest.fixture(name="images", scope="module")
def _images():
  return jax.random.uniform(jax.random.key(2), (B, 6, 8, 3), minval=-1)


@pytest.fixture(name="targets", scope="module")
def _targets():
  targets = jax.random.uniform(jax.random.key(3), (B, 4, P))
  return targets.at[..., -1].set(1).at[:, 2:].set(0)


@pytest.fixture(name="params", scope="module")
def _params(images):
  params = jax.jit(small_model().init)(RNGS, images)["params"]
  # One mask starts so low that the first steps clip it.
  mask = jnp.array([[0.5], [0.02], [1.3]])
  return {**params, "set_decoder": {**params["set_decoder"], "mask": mask}}


@functools.partial(jax.jit, static_argnames=("num_slots", "num_iterations"))
def apply(params, images, **kwargs):
  return small_model().apply({"params": params}, images, **kwargs)


def encode_set(elements, params):
  """The set encoder for one set [N, P], pair by pair and feature by feature."""
  size = len(elements)
  pairs = []
  for i in range(size):
    for j in range(size):
      x = np.concatenate([elements[i], elements[j]])
      x = reference.relu(reference.dense(x, params["mlp"]["dense_0"]))
      pairs.append(reference.dense(x, params["mlp"]["dense_1"]) / size**2)
  pairs = np.stack(pairs)
  weights = params["pool"]["weights"]
  code = np.zeros(D)
  for d in range(D):
    for rank, x in enumerate(sorted(pairs[:, d], reverse=True)):
      r = rank / (len(pairs) - 1)
      knots = np.linspace(0, 1, PIECES + 1)
      code[d] += np.interp(r, knots, weights[:, d]) * x
  return code


def huber(x):
  return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def transcription(params, code):
  """The sets [T + 1, K, P] of one code [D]; gradients are differences."""
  decoder = params["set_decoder"]
  elements = np.concatenate([decoder["elements"], decoder["mask"]], axis=-1)
  elements[:, -1] = np.clip(elements[:, -1], 0, 1)
  sets = [elements]

  def loss(elements):
    return huber(encode_set(elements, params["set_encoder"]) - code).mean()

  for _ in range(T):
    gradient = np.zeros((K, P))
    for place in np.ndindex(K, P):
      step = np.zeros((K, P))
      step[place] = 1e-6
      gradient[place] = (loss(elements + step) - loss(elements - step)) / 2e-6
    elements = elements - RATE * gradient
    elements[:, -1] = np.clip(elements[:, -1], 0, 1)
    sets.append(elements)
  return np.stack(sets)


def test_sets_move_as_in_a_transcription_with_finite_differences(
  params, images, targets
):
  outputs = apply(params, images, targets=targets)
  params = reference.float64(params)
  for b in range(B):
    expected = transcription(params, np.asarray(outputs["codes"][b]))
    sets = outputs["slots_per_iteration"][b]
    np.testing.assert_allclose(sets, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected[1] - expected[0])[:, :-1].max() > 0.05
    np.testing.assert_array_equal(outputs["slots"][b], sets[-1])
    in_scene = expected[1:].copy()
    in_scene[..., :3] = (in_scene[..., :3] + 1) / 2
    np.testing.assert_allclose(
      outputs["predictions_per_iteration"][b], in_scene, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(
      outputs["predictions"][b], outputs["predictions_per_iteration"][b, -1]
    )
    true = np.array(targets[b], np.float64)
    true[:2, :3] = 2 * true[:2, :3] - 1  # Rows 2 and 3 are padding.
    np.testing.assert_allclose(
      outputs["target_codes"][b],
      encode_set(true, params["set_encoder"]),
      rtol=1e-4,
      atol=1e-5,
    )


def test_codes_are_dense_in_the_whole_feature_map(params, images):
  outputs = apply(params, images)
  features = models.Encoder(
    features=(4,), strides=(2,), kernel_size=3, mlp_size=5
  ).apply({"params": params["encoder"]}, images)
  codes = reference.dense(
    np.asarray(features).reshape(B, -1), reference.float64(params["code"])
  )
  np.testing.assert_allclose(outputs["codes"], codes, rtol=1e-4, atol=1e-5)


def test_training_differentiates_through_the_gradient_steps(params, images):
  """Second derivatives: of the last set, by the weights of the set encoder."""
  with jax.enable_x64(True):
    params, images = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), (params, images)
    )
    _check_second_derivatives(params, images)


def _check_second_derivatives(params, images):
  kernel = params["set_encoder"]["mlp"]["dense_0"]["kernel"]
  direction = jax.random.normal(jax.random.key(5), kernel.shape)

  def loss(step):
    dense_0 = params["set_encoder"]["mlp"]["dense_0"]
    dense_0 = {**dense_0, "kernel": kernel + step * direction}
    mlp = {**params["set_encoder"]["mlp"], "dense_0": dense_0}
    changed = {
      **params, "set_encoder": {**params["set_encoder"], "mlp": mlp}
    }  # fmt: skip
    # The codes of the images do not depend on the set encoder.
    return small_model().apply({"params": changed}, images)["slots"].sum()

  loss = jax.jit(loss)
  gradient = float(jax.jit(jax.grad(loss))(0.0))
  difference = float(loss(1e-6) - loss(-1e-6)) / 2e-6
  assert abs(difference) > 0.1
  assert gradient == pytest.approx(difference, rel=1e-3)


def test_codes_depend_neither_on_order_nor_on_the_rest_of_the_batch():
  encoder = models.SetEncoder(code_size=D, hidden_size=7, num_pieces=PIECES)
  sets = jax.random.normal(jax.random.key(6), (B, 4, P))
  variables = encoder.init(jax.random.key(7), sets)
  codes = encoder.apply(variables, sets)
  shuffled = encoder.apply(variables, sets[:, jnp.array([2, 0, 3, 1])])
  np.testing.assert_allclose(shuffled, codes, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    encoder.apply(variables, sets[1:])[0], codes[1], rtol=1e-5, atol=1e-7
  )
  # The encoder takes sets of any size, also of one element.
  assert encoder.apply(variables, sets[:, :1]).shape == (B, D)


def test_targets_are_padded_to_the_elements_of_the_predicted_sets(
  params, images, targets
):
  """The code of a set depends on its number of elements."""
  rows = {
    n: apply(params, images, targets=targets[:, :n])["target_codes"]
    for n in (2, K)  # Two targets are real.
  }
  np.testing.assert_array_equal(rows[2], rows[K])


def test_the_pool_weighs_values_in_descending_order_with_ties():
  inputs = np.random.default_rng(0).integers(0, 4, (3, 9, 5)).astype(np.float32)
  pool = dspn.FSPool(num_pieces=8)  # As many pieces as there are ranks.
  params = pool.init(jax.random.key(0), inputs)
  weights = np.asarray(params["params"]["weights"])
  expected = np.sum(weights * -np.sort(-inputs, axis=1), axis=1)
  np.testing.assert_allclose(pool.apply(params, inputs), expected, rtol=1e-5)


def test_real_objects_make_the_round_trip_and_padding_stays_zero():
  coords = np.array([[[-3.0, 0.0, 1.5], [1.0, 2.0, 3.0]]])
  classes = {name: np.array([[1, 0]]) for name in clevr.PROPERTIES}
  targets = clevr.encode_targets(coords, classes, np.array([[True, False]]))
  elements = np.asarray(models.from_targets(jnp.asarray(targets)))
  np.testing.assert_allclose(elements[0, 0, :3], [-1, 0, 0.5], atol=1e-6)
  np.testing.assert_array_equal(elements[0, 1], 0)
  back = np.asarray(dspn.to_predictions(jnp.asarray(elements)))
  np.testing.assert_allclose(back[0, 0], targets[0, 0], atol=1e-6)
  # So a perfect set has a perfect average precision.
  precision = metrics.average_precision(back, targets, (0.01,))
  assert precision == {0.01: 1.0}


def test_the_loss_is_that_of_the_pairs_and_of_the_codes():
  config = configs.load("smoke:dspn")
  config.loss.code_weight = 0.3
  task = tasks.make_task(config)
  rng = np.random.default_rng(0)
  sets = rng.normal(size=(B, 10, 19)).astype(np.float32)
  targets = rng.random((B, 10, 19)).astype(np.float32)
  targets[..., -1] = 1
  codes, target_codes = rng.normal(scale=2, size=(2, B, 8)).astype(np.float32)
  losses = task.loss(
    {"slots": sets, "codes": codes, "target_codes": target_codes},
    {"targets": jnp.asarray(targets)},
  )
  for b in range(B):
    true = targets[b].copy()
    true[:, :3] = 2 * true[:, :3] - 1
    costs = huber(sets[b][:, None] - true[None]).mean(-1)
    pairs = scipy.optimize.linear_sum_assignment(costs)
    by_hand = costs[pairs].mean()
    by_hand += 0.3 * huber(codes[b] - target_codes[b]).mean()
    assert losses[b] == pytest.approx(by_hand, rel=1e-5)


def test_a_residual_block_equals_a_transcription_in_numpy():
  resnet = models.ResNet(features=(4, 32), blocks=(1, 2))
  images = jax.random.normal(jax.random.key(8), (B, 32, 24, 3))
  variables = jax.jit(resnet.init)(jax.random.key(9), images)
  outputs = jax.jit(resnet.apply)(variables, images)
  params = reference.float64(variables["params"])

  def layer(x, name, stride):
    x = reference.conv(x, params[name], stride=stride)
    group = min(16, x.shape[-1])
    grouped = x.reshape(*x.shape[:-1], -1, group)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = ((grouped - mean) ** 2).mean((1, 2, 4), keepdims=True)
    x = ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)
    scale, bias = (params[f"{name}_norm"][y] for y in ("scale", "bias"))
    return x * scale + bias

  x = reference.relu(layer(np.asarray(images, np.float64), "stem", 2))
  padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
  rows, columns = x.shape[1] // 2, x.shape[2] // 2
  x = np.stack(
    [
      [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
       for j in range(columns)]
      for i in range(rows)
    ]
  ).transpose(2, 0, 1, 3)  # fmt: skip
  for name, stride, projects in (
    ("stage_0_0", 1, False), ("stage_1_0", 2, True), ("stage_1_1", 1, False)
  ):  # fmt: skip
    shortcut = layer(x, f"{name}_shortcut", stride) if projects else x
    y = reference.relu(layer(x, f"{name}_conv_0", stride))
    x = reference.relu(layer(y, f"{name}_conv_1", 1) + shortcut)
  expected = layer(x, "end", 2)
  np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-4)


def test_parameters_counted_by_hand_are_those_of_the_code():
  config = configs.load("dspn")
  shapes = jax.eval_shape(
    lambda key: tasks.make_task(config).init(key, (128, 128, 3)),
    jax.random.key(0),
  )
  counts = {
    name: sum(x.size for x in jax.tree.leaves(tree))
    for name, tree in shapes.items()
  }

  def layer(size, inputs, outputs):  # Convolution without bias, and norm.
    return size**2 * inputs * outputs + norm(outputs)

  resnet, inputs = layer(7, 3, 64), 64
  for outputs, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
    resnet += layer(3, inputs, outputs) + layer(3, outputs, outputs)
    resnet += (blocks - 1) * 2 * layer(3, outputs, outputs)
    resnet += layer(1, inputs, outputs) * (inputs != outputs)
    inputs = outputs
  # torchvision's ResNet-34 has 21,797,672 with its classifier.
  assert resnet == 21_797_672 - dense(512, 1000)
  assert counts == {
    "encoder": resnet + conv(3, 512, 512) + norm(512),
    "code": conv(2, 512, 512),
    "set_encoder": dense(38, 512) + dense(512, 512) + 21 * 512,
    "set_decoder": 10 * 18 + 10,
  }
  # The code makes one more dense layer and does not use it.
  published = sum(counts.values()) + dense(512, 512)
  assert published / 1e6 == pytest.approx(25.3, abs=0.05)


def test_the_number_of_steps_is_free_and_that_of_elements_is_not(
  params, images
):
  more = apply(params, images, num_iterations=T + 3)
  assert more["predictions_per_iteration"].shape == (B, T + 3, K, P)
  np.testing.assert_allclose(
    more["slots_per_iteration"][:, : T + 1],
    apply(params, images, num_slots=K)["slots_per_iteration"],
    rtol=1e-5,
  )
  with pytest.raises(ValueError, match="DSPN has no num_slots: its first set"):
    apply(params, images, num_slots=K + 1)
  with pytest.raises(ValueError, match="num_iterations=0 must be at least 1"):
    apply(params, images, num_iterations=0)
  with pytest.raises(ValueError, match=r"features=\(20,\) must be at most 16"):
    models.ResNet(features=(20,), blocks=(1,))
  with pytest.raises(ValueError, match="one entry for each stage"):
    models.ResNet(blocks=(1,))
