"""Tests of IODINE against a transcription in NumPy, and of its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from slot_attention import models, tasks
from slot_attention.data import datasets
from tests.models import reference
from tests.models.test_slot_models import conv, dense

B, K, D, T, H, W, C = 2, 3, 4, 2, 9, 7, 1
SCALE = 0.4

RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def small_model(**refinement):
  return models.Iodine(
    refinement=models.RefinementNetwork(
      **{
        "num_slots": K,
        "num_iterations": T,
        "slot_size": D,
        "features": (6, 5),
        "kernel_size": 3,
        "mlp_sizes": (8,),
        "lstm_size": 10,
        "coordinates": "cosine",
        "scale": SCALE,
        **refinement,
      }
    ),
    pixel_decoder=models.PixelDecoder(
      image_size=(H, W),
      features=(6, 5),
      kernel_size=3,
      output_kernel_size=5,
      activation="elu",
      padding="SAME",
      channels=C,
    ),
  )


@pytest.fixture(name="images", scope="module")
def _images():
  return jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)


@pytest.fixture(name="noise", scope="module")
def _noise():
  return jax.random.normal(jax.random.key(3), (B, T + 1, K, D))


def varied(model, images):
  """Initialises a model and moves all parameters, also those that are 0."""
  params = jax.jit(model.init)(RNGS, images)["params"]
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(4), len(leaves))
  moved = [
    x + 0.1 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)
  ]
  return jax.tree.unflatten(tree, moved)


class Transcription:
  """IODINE for one image [H, W, C] in [-1, 1], without any automatic gradient.

  The gradient of the posterior is that of finite differences.
  """

  def __init__(self, params, image, coordinates):
    self.params = reference.float64(params)
    self.image = np.asarray(image, np.float64) / 2 + 0.5
    self.coordinates = coordinates

  def moments(self, posterior):
    return posterior[:, :D], reference.softplus(posterior[:, D:])

  def decode(self, slots):
    slots = np.concatenate([slots, np.full((len(slots), 1), 5.0)], axis=1)
    return reference.decode(
      slots, self.params["pixel_decoder"], H, W,
      activate=reference.elu, padding="SAME",
    )  # fmt: skip

  def densities(self, colors):
    """Density of every pixel under every slot: the product over channels."""
    z = np.exp(-(self.image - colors) / SCALE)
    return (z / (SCALE * (1 + z) ** 2)).prod(-1)

  def nll(self, colors, logits):
    masks = reference.softmax(logits, 0)
    return -np.log((masks * self.densities(colors)).sum(0))

  def kl(self, posterior):
    mean, variance = self.moments(posterior)
    prior = np.log(2)
    return (
      0.5 * (np.log(prior / variance) + (variance + mean**2) / prior - 1).sum()
    )

  def loss(self, posterior, noise):
    mean, variance = self.moments(posterior)
    slots = mean + np.sqrt(variance) * noise
    return self.nll(*self.decode(slots)).sum() + self.kl(posterior)

  def posterior_gradient(self, posterior, noise, step=1e-5):
    gradient = np.zeros_like(posterior)
    for index in np.ndindex(*posterior.shape):
      up, down = posterior.copy(), posterior.copy()
      up[index] += step
      down[index] -= step
      difference = self.loss(up, noise) - self.loss(down, noise)
      gradient[index] = difference / (2 * step)
    return gradient

  def inputs(self, colors, logits):
    """Returns the images that the refinement network sees, before norms."""
    masks = reference.softmax(logits, 0)
    densities = self.densities(colors)
    mixture = masks * densities
    shares = mixture / mixture.sum(0)
    # d/dmu log density = tanh((x - mu) / 2s) / s.
    slope = np.tanh((self.image - colors) / (2 * SCALE)) / SCALE
    nll = self.nll(colors, logits)
    without = [
      self.nll(np.delete(colors, k, 0), np.delete(logits, k, 0))
      for k in range(len(logits))
    ]
    return {
      "images": np.broadcast_to(self.image, colors.shape),
      "colors": colors,
      "logits": logits[..., None],
      "masks": masks[..., None],
      "posterior": (densities / (densities.sum(0) + 1e-6))[..., None],
      "colors_gradient": -shares[..., None] * slope,
      "logits_gradient": (masks - shares)[..., None],
      "log_prob": np.broadcast_to(-nll, masks.shape)[..., None],
      "counterfactual": (np.stack(without) - nll)[..., None],
    }

  def refine(self, posterior, gradient, images, state):
    params = self.params["refinement"]
    for name in images:
      if f"layer_norm_{name}" in params:
        images[name] = reference.norm(
          images[name], params[f"layer_norm_{name}"], (1, 2, 3)
        )
    ys = np.linspace(0, 1, H)[:, None] * np.ones((1, W))
    xs = np.linspace(0, 1, W)[None] * np.ones((H, 1))
    if self.coordinates == "linear":
      grids = [2 * ys - 1, 2 * xs - 1]
    else:
      grids = [
        np.cos(i * np.pi * xs) * np.cos(j * np.pi * ys)
        for i in range(3)
        for j in range(3)
        if i or j
      ]
    grids = [*grids, np.full((H, W), 0.5)]
    common = np.broadcast_to(np.stack(grids, -1), (K, H, W, len(grids)))
    x = np.concatenate([*images.values(), common], axis=-1)
    i = 0
    while f"conv_{i}" in params:
      x = reference.elu(reference.conv(x, params[f"conv_{i}"], stride=2))
      i += 1
    x = reference.dense(x.mean((1, 2)), params["dense_0"])
    gradient = reference.norm(
      gradient, params["layer_norm_posteriors_gradient"], (1,)
    )
    x = np.concatenate([x, posterior, gradient, np.full((K, 1), 0.5)], axis=1)
    if "lstm" in params:
      outputs, cells = state
      gates = reference.dense(
        np.concatenate([x, outputs], axis=1), params["lstm"]["gates"]
      )
      enter, candidate, forget, leave = np.split(gates, 4, axis=1)
      cells = reference.sigmoid(forget + 1) * cells
      cells = cells + reference.sigmoid(enter) * np.tanh(candidate)
      x = reference.sigmoid(leave) * np.tanh(cells)
      state = (x, cells)
    return posterior + reference.dense(x, params["head"]), state

  def run(self, noise):
    posterior = np.tile(self.params["first_posterior"], (K, 1))
    state = (np.zeros((K, 10)), np.zeros((K, 10)))
    steps = []
    for t in range(T + 1):
      mean, variance = self.moments(posterior)
      slots = mean + np.sqrt(variance) * noise[t]
      colors, logits = self.decode(slots)
      steps.append(
        {
          "slots_per_iteration": slots,
          "posteriors": posterior,
          "nll": self.nll(colors, logits).sum(),
          "kl": self.kl(posterior),
        }
      )
      if t < T:
        posterior, state = self.refine(
          posterior,
          self.posterior_gradient(posterior, noise[t]),
          self.inputs(colors, logits),
          state,
        )
    masks = reference.softmax(logits, 0)[..., None]
    recons = 2 * colors - 1
    return {
      **{name: np.stack([x[name] for x in steps]) for name in steps[0]},
      "slots": slots,
      "recons": recons,
      "masks": masks,
      "recon_combined": (masks * recons).sum(0),
    }


@pytest.mark.parametrize(
  "coordinates, lstm_size", [("cosine", 10), ("linear", 0)]
)
def test_two_refinements_equal_a_transcription_in_numpy(
  images, noise, coordinates, lstm_size
):
  model = small_model(coordinates=coordinates, lstm_size=lstm_size)
  params = varied(model, images)
  outputs = model.apply({"params": params}, images, noise=noise)
  for b in range(B):
    expected = Transcription(params, images[b], coordinates).run(
      np.asarray(noise[b], np.float64)
    )
    assert outputs.keys() == expected.keys()
    # A refinement moves the posterior by far more than the tolerance.
    assert np.abs(np.diff(expected["posteriors"], axis=0)).max() > 0.1
    for name, x in expected.items():
      np.testing.assert_allclose(
        outputs[name][b], x, rtol=2e-3, atol=2e-3, err_msg=name
      )


def test_the_inputs_of_the_refinement_network_equal_the_transcription(images):
  model = small_model()
  params = varied(model, images)
  bound = model.bind({"params": params})
  colors = jax.random.uniform(jax.random.key(5), (B, K, H, W, C))
  logits = jax.random.normal(jax.random.key(6), (B, K, H, W, 1))

  def nll(colors, logits):
    log_masks = jax.nn.log_softmax(logits, axis=1)
    log_probs = bound._log_probs(images[:, None] / 2 + 0.5, colors)
    return -jax.nn.logsumexp(log_masks + log_probs, axis=1).sum()

  gradients = jax.grad(nll, argnums=(0, 1))(colors, logits)
  spatial = bound.refinement_inputs(
    images[:, None] / 2 + 0.5, colors, logits, (None, *gradients)
  )
  for b in range(B):
    expected = Transcription(params, images[b], "cosine").inputs(
      np.asarray(colors[b], np.float64),
      np.asarray(logits[b, ..., 0], np.float64),
    )
    assert spatial.keys() == expected.keys()
    for name, x in expected.items():
      np.testing.assert_allclose(
        np.broadcast_to(spatial[name][b], x.shape), x,
        rtol=1e-3, atol=1e-4, err_msg=name,
      )  # fmt: skip


def loss_of(model, images, noise):
  def loss(params):
    outputs = model.apply({"params": params}, images, noise=noise)
    return jnp.sum(outputs["nll"] + outputs["kl"])

  return loss


@pytest.mark.slow
def test_training_takes_the_inner_gradients_as_constants(
  images, noise, monkeypatch
):
  """So there are no second derivatives, as in the official code."""
  model = small_model()
  params = varied(model, images)
  taken = []
  inner = models.Iodine._gradients

  def keep(*args):
    taken.append(inner(*args))
    return taken[-1]

  loss = loss_of(model, images, noise)
  computed = jax.grad(loss)(params)
  with monkeypatch.context() as context:
    context.setattr(models.Iodine, "_gradients", keep)
    loss(params)
  assert len(taken) == T
  constants = iter(taken)
  with monkeypatch.context() as context:
    context.setattr(models.Iodine, "_gradients", lambda *_: next(constants))
    expected = jax.grad(loss)(params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-2),
    computed,
    expected,
  )
  # The test can fail: with second derivatives, the gradients differ.
  monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)
  second = jax.grad(loss)(params)
  differences = jax.tree.map(
    lambda a, b: jnp.abs(a - b).max(), second, computed
  )
  assert max(jax.tree.leaves(differences)) > 1


def test_the_loss_weighs_the_refinements_from_zero_to_one():
  task = tasks.make_task(configs.load("smoke:iodine:quickstart"))
  outputs = {
    "nll": jnp.array([[1e9, 5.0, 20.0], [1e9, 1.0, 2.0]]),
    "kl": jnp.array([[1e9, 1.0, 3.0], [1e9, 7.0, 5.0]]),
  }
  np.testing.assert_allclose(task.loss(outputs, {}), [6 / 2 + 23, 8 / 2 + 7])


def lstm(inputs, size):
  return dense(inputs + size, 4 * size)


@pytest.mark.parametrize(
  "name, by_hand",
  [
    (
      "tetrominoes_object_discovery",
      (conv(5, 35, 32) + 3 * conv(5, 32, 32) + conv(5, 32, 4))
      + (conv(5, 24, 32) + 2 * conv(5, 32, 32) + dense(32, 128))
      + (dense(128 + 2 * 64 + 1, 64) + 64),
    ),
    (
      "multi_dsprites_object_discovery",
      (conv(5, 19, 32) + 3 * conv(5, 32, 32) + conv(5, 32, 4))
      + (conv(5, 24, 32) + 2 * conv(5, 32, 32) + dense(32, 128))
      + (lstm(128 + 2 * 32 + 1, 128) + dense(128, 32) + 32),
    ),
    (
      "clevr6_object_discovery",
      (conv(3, 67, 64) + 3 * conv(3, 64, 64) + conv(3, 64, 4))
      + (conv(3, 18, 64) + 3 * conv(3, 64, 64))
      + (dense(64, 256) + dense(256, 256))
      + (lstm(256 + 2 * 128 + 1, 256) + dense(256, 128) + 128),
    ),
  ],
)
def test_parameters_of_the_paper_s_models_counted_by_hand(name, by_hand):
  """Without layer norms these are the 0.20, 0.34 and 1.18 million published."""
  config = configs.load(f"iodine:{name}")
  shapes = jax.eval_shape(
    lambda key: tasks.make_task(config).init(
      key, datasets.image_shape(config.data)
    ),
    jax.random.key(0),
  )
  norms = {
    name: shapes["refinement"].pop(name)
    for name in [*shapes["refinement"]]
    if name.startswith("layer_norm")
  }
  assert sum(x.size for x in jax.tree.leaves(shapes)) == by_hand
  # Colours, logits, log probability, counterfactual; gradient of posteriors.
  size = config.model.refinement.slot_size
  assert sum(x.size for x in jax.tree.leaves(norms)) == 2 * (3 + 3 + 2 * size)


def test_slots_and_refinements_are_free_at_call_time(images):
  model = small_model()
  params = varied(model, images)
  outputs = model.apply(
    {"params": params},
    images,
    num_slots=K + 2,
    num_iterations=T + 1,
    rngs=RNGS,
  )
  assert outputs["slots"].shape == (B, K + 2, D)
  assert outputs["slots_per_iteration"].shape == (B, T + 2, K + 2, D)
  assert outputs["masks"].shape == (B, K + 2, H, W, 1)
  np.testing.assert_allclose(outputs["masks"].sum(1), 1, atol=1e-5)
  assert outputs["nll"].shape == outputs["kl"].shape == (B, T + 2)
  # More refinements go on from the same noise.
  fewer = model.apply(
    {"params": params}, images, num_slots=K + 2, num_iterations=1, rngs=RNGS
  )
  np.testing.assert_allclose(fewer["nll"], outputs["nll"][:, :2], rtol=1e-5)
  for fields in ({"num_slots": 1}, {"num_iterations": 0}):
    with pytest.raises(ValueError, match="must be at least"):
      model.apply({"params": params}, images, rngs=RNGS, **fields)


def test_the_noise_of_an_example_depends_on_its_id_alone(images):
  model = small_model()
  params = varied(model, images)

  def slots(images, ids):
    outputs = model.apply(
      {"params": params}, images, example_ids=jnp.array(ids), rngs=RNGS
    )
    return outputs["slots_per_iteration"]

  together = slots(images, [8, 3])
  np.testing.assert_allclose(slots(images[1:], [3])[0], together[1], rtol=1e-4)
  assert np.abs(slots(images, [8, 4])[1] - together[1]).max() > 0.1


def test_decoding_the_slots_of_the_last_refinement_gives_the_reconstruction(
  images,
):
  model = small_model()
  params = varied(model, images)
  outputs = model.apply({"params": params}, images, rngs=RNGS)
  decoded = model.apply(
    {"params": params},
    outputs["slots_per_iteration"][:, -1],
    method="decode",
  )
  for name, x in decoded.items():
    np.testing.assert_allclose(x, outputs[name], atol=1e-5)


def test_images_of_another_shape_are_refused(images):
  with pytest.raises(ValueError, match="9x6x1 .* do not fit .* 9x7x1:"):
    small_model().init(RNGS, images[:, :, 1:])
