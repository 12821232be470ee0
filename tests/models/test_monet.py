"""Tests of MONet against a transcription in NumPy, and of its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from slot_attention import models, tasks
from slot_attention.data import datasets
from slot_attention.models.monet import monet_loss
from tests.models import reference
from tests.models.test_slot_models import conv, dense, norm

B, K, D, H, W, C = 2, 3, 4, 10, 9, 1

RNGS = {"params": jax.random.key(0), "slots": jax.random.key(1)}


def small_model(**fields):
  return models.MONet(
    attention=models.AttentionNetwork(
      num_slots=K, features=(5, 6, 7), mlp_size=8
    ),
    component_encoder=models.ComponentEncoder(
      slot_size=D, features=(6, 5), mlp_size=11
    ),
    pixel_decoder=models.PixelDecoder(
      **{
        "image_size": (H, W),
        "features": (6, 5),
        "kernel_size": 3,
        "output_kernel_size": 1,
        "activation": "relu",
        "padding": "VALID",
        "channels": C,
        **fields,
      }
    ),
  )


@pytest.fixture(name="images", scope="module")
def _images():
  return jax.random.uniform(jax.random.key(2), (B, H, W, C), minval=-1)


@pytest.fixture(name="noise", scope="module")
def _noise():
  return jax.random.normal(jax.random.key(3), (B, K, D))


@pytest.fixture(name="params", scope="module")
def _params(images):
  """Initial parameters, all moved, also those that are 0."""
  params = jax.jit(small_model().init)(RNGS, images)["params"]
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(4), len(leaves))
  moved = [
    x + 0.1 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)
  ]
  return jax.tree.unflatten(tree, moved)


def apply(params, images, **kwargs):
  return small_model().apply({"params": params}, images, **kwargs)


def nearest(x, height, width):
  """Resizes [B, h, w, D] by the nearest neighbour of every pixel's centre."""
  rows, columns = (
    ((np.arange(new) + 0.5) * old / new).astype(int)
    for new, old in ((height, x.shape[1]), (width, x.shape[2]))
  )
  return x[:, rows][:, :, columns]


def block(x, params, name):
  x = reference.conv(x, params[f"{name}_conv"])
  return reference.relu(reference.norm(x, params[f"{name}_norm"], (1, 2)))


def attend(image, log_scope, params):
  """The U-Net for one image [1, H, W, C]."""
  down = [block(np.concatenate([image, log_scope], -1), params, "down_0")]
  for i in (1, 2):
    down.append(block(down[-1][:, ::2, ::2], params, f"down_{i}"))
  x = down[-1].reshape(1, -1)
  for i in range(3):
    x = reference.relu(reference.dense(x, params["mlp"][f"dense_{i}"]))
  x = x.reshape(down[-1].shape)
  for i in range(3):
    skip = down[2 - i]
    x = nearest(x, *skip.shape[1:3])
    x = block(np.concatenate([x, skip], -1), params, f"up_{i}")
  return reference.conv(x, params["conv_out"])


def transcription(params, image, noise):
  """MONet for one image [H, W, C] in [-1, 1], with masks, not their logs."""
  image = np.asarray(image, np.float64)[None] / 2 + 0.5
  params = reference.float64(params)
  scope = np.ones((1, H, W, 1))
  masks, scopes = [], [scope]
  for _ in range(K - 1):
    share = reference.sigmoid(attend(image, np.log(scope), params["attention"]))
    masks.append(scope * share)
    scope = scope * (1 - share)
    scopes.append(scope)
  masks = np.concatenate([*masks, scope])

  encoder = params["component_encoder"]
  x = np.concatenate([np.repeat(image, K, 0), np.log(masks)], -1)
  for i in (0, 1):
    x = reference.relu(reference.conv(x, encoder[f"conv_{i}"], stride=2))
  x = reference.relu(reference.dense(x.reshape(K, -1), encoder["dense_0"]))
  x = reference.dense(x, encoder["dense_1"])
  mean, deviation = x[:, :D], reference.softplus(x[:, D:] + 0.5)
  slots = mean + deviation * noise
  colors, logits = reference.decode(
    slots, params["pixel_decoder"], H, W,
    activate=reference.relu, padding="VALID",
  )  # fmt: skip
  recons = 2 * colors - 1
  kl = 0.5 * (mean**2 + deviation**2 - 1 - np.log(deviation**2))
  return {
    "slots": slots,
    "masks": masks,
    "recons": recons,
    "recon_combined": (masks * recons).sum(0),
    "log_masks": np.log(masks),
    "decoded_log_masks": np.log(reference.softmax(logits, 0))[..., None],
    "scopes": np.concatenate(scopes),
    "kl": kl.sum(),
  }


def loss_by_hand(outputs, image, sigmas, beta, gamma):
  """The loss of one image, pixel by pixel."""
  total = beta * outputs["kl"]
  for i, j in np.ndindex(H, W):
    density = 0.0
    for k in range(K):
      sigma = sigmas[0] if k == 0 else sigmas[1]
      # Both are in [-1, 1], twice as wide as [0, 1].
      z = (image[i, j] - outputs["recons"][k, i, j]) / 2 / sigma
      normal = np.exp(-(z**2) / 2) / (sigma * np.sqrt(2 * np.pi))
      density += outputs["masks"][k, i, j, 0] * normal.prod()
    total -= np.log(density)
    q = outputs["masks"][:, i, j, 0]
    p = np.exp(outputs["decoded_log_masks"][:, i, j, 0])
    total += gamma * (q * np.log(q / p)).sum()
  return total


def loss_of(outputs, images, sigmas, beta, gamma):
  return monet_loss(
    outputs,
    images,
    sigma_background=sigmas[0],
    sigma_foreground=sigmas[1],
    beta=beta,
    gamma=gamma,
  )


def test_the_model_and_its_loss_equal_a_transcription_in_numpy(
  params, images, noise
):
  outputs = apply(params, images, noise=noise)
  weights = ((0.3, 0.4), 0.6, 0.7)
  losses = loss_of(outputs, images, *weights)
  for b in range(B):
    expected = transcription(
      params, images[b], np.asarray(noise[b], np.float64)
    )
    assert outputs.keys() == expected.keys()
    for name, x in expected.items():
      np.testing.assert_allclose(
        outputs[name][b], x, rtol=1e-3, atol=1e-4, err_msg=name
      )
    image = np.asarray(images[b], np.float64)
    by_hand = loss_by_hand(expected, image, *weights)
    assert losses[b] == pytest.approx(by_hand, rel=1e-4)
    # Every term counts.
    for other in (((0.4, 0.4), 0.6, 0.7), ((0.3, 0.4), 0, 0.7)):
      assert abs(loss_by_hand(expected, image, *other) - by_hand) > 0.5
    no_mask_kl = loss_by_hand(expected, image, (0.3, 0.4), 0.6, 0)
    assert abs(no_mask_kl - by_hand) > 0.5


def test_masks_that_vanish_give_a_finite_loss_and_gradients(
  params, images, noise
):
  def loss(params):
    # A sigmoid of these logits is 0 or 1 in float32.
    conv_out = params["attention"]["conv_out"]
    steep = {**conv_out, "kernel": 1e3 * conv_out["kernel"]}
    steep = {**params, "attention": {**params["attention"], "conv_out": steep}}
    outputs = apply(steep, images, noise=noise)
    return loss_of(outputs, images, (0.3, 0.4), 0.5, 0.5).sum(), outputs

  gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (value, outputs), gradients = gradient(params)
  assert outputs["masks"].min() == 0
  np.testing.assert_allclose(outputs["masks"].sum(1), 1, atol=1e-5)
  assert np.isfinite(value)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def up_and_down(features, channels=4):
  """Counts the blocks of a U-Net: convolutions without bias, norms."""
  down = list(zip((channels, *features), features))
  ups = (*features[-2::-1], features[0])
  inputs = (features[-1], *ups)
  up = [(inputs[i] + skip, ups[i]) for i, skip in enumerate(reversed(features))]
  return sum(9 * a * b + norm(b) for a, b in (*down, *up))


@pytest.mark.parametrize(
  "side, features, published",
  [
    (32, (32, 64, 64, 64), 0.75),
    (64, (32, 32, 64, 64, 64), 0.97),
    (128, (32, 32, 32, 64, 64, 64), 1.79),
  ],
)
def test_parameters_counted_by_hand_are_those_of_the_reimplementation(
  side, features, published
):
  bottleneck = 4 * 4 * 64
  attention = up_and_down(features) + dense(32, 1)
  attention += dense(bottleneck, 128) + dense(128, 128) + dense(128, bottleneck)
  encoder = conv(3, 4, 32) + conv(3, 32, 32) + conv(3, 32, 64)
  encoder += conv(3, 64, 64) + dense((side // 16) ** 2 * 64, 256)
  encoder += dense(256, 32)
  decoder = conv(3, 18, 32) + 3 * conv(3, 32, 32) + conv(1, 32, 4)
  by_hand = attention + encoder + decoder
  module = models.MONet(
    attention=models.AttentionNetwork(num_slots=4, features=features),
    component_encoder=models.ComponentEncoder(),
    pixel_decoder=models.PixelDecoder(
      (side, side), (32,) * 4, 3, 1, "relu", "VALID"
    ),
  )
  shapes = jax.eval_shape(module.init, RNGS, jnp.zeros((1, side, side, 3)))
  assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == by_hand
  assert by_hand / 1e6 == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize(
  "name", ["multi_dsprites_object_discovery", "clevr6_object_discovery"]
)
def test_the_configs_have_these_networks(name):
  config = configs.load(f"monet:{name}")
  shape = datasets.image_shape(config.data)
  shapes = jax.eval_shape(
    lambda key: tasks.make_task(config).init(key, shape), jax.random.key(0)
  )
  count = sum(x.size for x in jax.tree.leaves(shapes))
  published = {64: 0.97, 128: 1.79}[shape[0]]
  assert count / 1e6 == pytest.approx(published, abs=0.005)


@pytest.mark.parametrize("num_slots", [1, 2, 5])
def test_the_number_of_slots_is_free_at_call_time(params, images, num_slots):
  outputs = apply(params, images, num_slots=num_slots, rngs=RNGS)
  assert outputs["slots"].shape == (B, num_slots, D)
  assert outputs["recons"].shape == (B, num_slots, H, W, C)
  np.testing.assert_allclose(outputs["masks"].sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(outputs["scopes"][:, 0], 1)
  # The first masks do not depend on how many follow.
  more = apply(params, images, num_slots=num_slots + 1, rngs=RNGS)
  np.testing.assert_allclose(
    more["masks"][:, : num_slots - 1],
    outputs["masks"][:, : num_slots - 1],
    atol=1e-5,
  )


def test_the_noise_of_an_example_depends_on_its_id_alone(params, images):
  def slots(images, ids):
    outputs = apply(params, images, example_ids=jnp.array(ids), rngs=RNGS)
    return outputs["slots"]

  together = slots(images, [8, 3])
  np.testing.assert_allclose(slots(images[1:], [3])[0], together[1], rtol=1e-4)
  assert np.abs(slots(images, [8, 4])[1] - together[1]).max() > 0.1


def test_iterations_and_images_that_do_not_fit_are_refused(params, images):
  with pytest.raises(ValueError, match="MONet has no num_iterations"):
    apply(params, images, num_iterations=3)
  with pytest.raises(ValueError, match="num_slots=0 must be at least 1"):
    apply(params, images, num_slots=0)
  with pytest.raises(ValueError, match="9x9x1 .* do not fit"):
    apply(params, images[:, 1:])
  with pytest.raises(ValueError, match="halves images 2 times, so 3x9 pixels"):
    small_model(image_size=(3, 9))
