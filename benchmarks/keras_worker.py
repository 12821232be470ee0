"""The worker with the paper's two models in Keras, see `benchmarks.workers`.

The models follow the paper, and the program is written like the authors' code:
it has Keras layers, a training step in one `tf.function`, and matching by SciPy
on the host. It needs only TensorFlow, NumPy and SciPy.

Letters in shapes: B batch, H and W image, C colour channels, h and w feature
map, N = h w inputs, K slots, D slot size, M targets, P numbers per object.
"""

from collections.abc import Mapping
import itertools
import platform
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
import tensorflow as tf

from benchmarks import workers

layers = tf.keras.layers


def make_mlp(hidden_size: int, num_outputs: int, activation=None):
  return tf.keras.Sequential(
    [
      layers.Dense(hidden_size, activation="relu", name="dense_0"),
      layers.Dense(num_outputs, activation, name="dense_1"),
    ],
    name="mlp",
  )


class SoftPositionEmbedding(layers.Layer):
  """Adds a projection of the distances to the four borders."""

  def __init__(self, height, width, size):
    super().__init__(name="position_embedding")
    y, x = np.meshgrid(
      np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"
    )
    self.grid = np.stack([y, x, 1 - y, 1 - x], axis=-1)[None]
    self.dense = layers.Dense(size, name="dense")

  def call(self, x):
    """Maps [B, h, w, D] or [B, 1, 1, D] to [B, h, w, D]."""
    return x + self.dense(tf.constant(self.grid, x.dtype))


class Encoder(layers.Layer):
  """Convolutional encoder with position embedding."""

  def __init__(
    self, image_shape, features, strides, kernel_size, mlp_size, **_
  ):
    super().__init__(name="encoder")
    self.convs = [
      layers.Conv2D(
        size, kernel_size, stride, "same", activation="relu", name=f"conv_{i}"
      )
      for i, (size, stride) in enumerate(zip(features, strides))
    ]
    height, width, _ = image_shape
    for stride in strides:
      height, width = -(-height // stride), -(-width // stride)
    self.position_embedding = SoftPositionEmbedding(height, width, features[-1])
    self.flatten = layers.Reshape((height * width, features[-1]))
    self.layer_norm = layers.LayerNormalization(name="layer_norm")
    self.mlp = make_mlp(mlp_size, mlp_size)

  def call(self, images):
    """Maps images [B, H, W, C] to features [B, N, mlp_size]."""
    x = images
    for conv in self.convs:
      x = conv(x)
    x = self.flatten(self.position_embedding(x))
    return self.mlp(self.layer_norm(x))


class SlotAttention(layers.Layer):
  """Algorithm 1."""

  def __init__(
    self,
    num_slots,
    num_iterations,
    slot_size,
    mlp_hidden_size,
    epsilon,
    **_,
  ):
    super().__init__(name="slot_attention")
    self.num_slots, self.slot_size = num_slots, slot_size
    self.num_iterations, self.epsilon = num_iterations, epsilon
    for name in ("slots_mu", "slots_log_sigma"):
      weight = self.add_weight(
        shape=(1, 1, slot_size), initializer="glorot_uniform", name=name
      )
      setattr(self, name, weight)
    self.norm_inputs = layers.LayerNormalization(name="norm_inputs")
    self.norm_slots = layers.LayerNormalization(name="norm_slots")
    self.norm_mlp = layers.LayerNormalization(name="norm_mlp")
    self.project_q = layers.Dense(slot_size, use_bias=False, name="project_q")
    self.project_k = layers.Dense(slot_size, use_bias=False, name="project_k")
    self.project_v = layers.Dense(slot_size, use_bias=False, name="project_v")
    self.gru = layers.GRUCell(slot_size, name="gru")
    self.mlp = make_mlp(mlp_hidden_size, slot_size)

  def call(self, inputs, slots=None):
    """Maps inputs [B, N, inputs_size] to slots [B, K, D].

    If `slots` is None, the initial slots are random.
    """
    if slots is None:
      shape = (inputs.shape[0], self.num_slots, self.slot_size)
      noise = tf.random.normal(shape, dtype=self.compute_dtype)
      slots = self.slots_mu + tf.exp(self.slots_log_sigma) * noise
    inputs = self.norm_inputs(inputs)
    k, v = self.project_k(inputs), self.project_v(inputs)
    for _ in range(self.num_iterations):
      q = self.project_q(self.norm_slots(slots)) * self.slot_size**-0.5
      logits = tf.matmul(k, q, transpose_b=True)
      attn = tf.nn.softmax(tf.cast(logits, tf.float32)) + self.epsilon
      weights = attn / tf.reduce_sum(attn, axis=1, keepdims=True)
      updates = tf.matmul(tf.cast(weights, v.dtype), v, transpose_a=True)
      flat = (-1, self.slot_size)
      next_slots, _ = self.gru(
        tf.reshape(updates, flat), [tf.reshape(slots, flat)]
      )
      slots = tf.reshape(next_slots, tf.shape(slots))
      slots = slots + self.mlp(self.norm_mlp(slots))
    return slots


class Decoder(layers.Layer):
  """Decodes every slot to an image and a mask."""

  def __init__(
    self,
    size,
    broadcast_size,
    features,
    strides,
    kernel_size,
    channels,
    **_,
  ):
    super().__init__(name="decoder")
    self.position_embedding = SoftPositionEmbedding(*broadcast_size, size)
    self.convs = [
      layers.Conv2DTranspose(
        size, kernel_size, stride, "same", activation="relu", name=f"conv_{i}"
      )
      for i, (size, stride) in enumerate(zip(features, strides))
    ]
    self.conv_out = layers.Conv2DTranspose(
      channels + 1, 3, padding="same", name="conv_out"
    )

  def call(self, slots):
    """Maps slots [B, K, D] to recons [B, K, H, W, C], masks and their sum."""
    _, num_slots, size = slots.shape
    x = self.position_embedding(tf.reshape(slots, (-1, 1, 1, size)))
    for conv in self.convs:
      x = conv(x)
    x = tf.cast(self.conv_out(x), tf.float32)
    x = tf.reshape(x, (-1, num_slots, *x.shape[1:]))
    recons, masks = x[..., :-1], tf.nn.softmax(x[..., -1:], axis=1)
    recon_combined = tf.reduce_sum(masks * recons, axis=1)
    return {"recon_combined": recon_combined, "recons": recons, "masks": masks}


class SetPredictor(layers.Layer):
  """Predicts the properties of the object of each slot."""

  def __init__(self, hidden_size, num_outputs):
    super().__init__(name="classifier")
    self.mlp = make_mlp(hidden_size, num_outputs, "sigmoid")

  def call(self, slots):
    """Maps [B, K, D] to [B, K, P] in [0, 1]."""
    return {"predictions": tf.cast(self.mlp(slots), tf.float32)}


class Model(tf.keras.Model):
  """The whole model: encoder, Slot Attention, and decoder or classifier.

  Args:
    image_shape: [H, W, C].
    model: the section of the config.

  Raises:
    ValueError: if the model is another variant than the paper's.
  """

  def __init__(self, image_shape: list[int], model: Mapping[str, Any]):
    super().__init__(name="model")
    workers.check_variant(model)
    self.encoder = Encoder(image_shape, **model["encoder"])
    self.slot_attention = SlotAttention(**model["slot_attention"])
    if "decoder" in model:
      size = model["slot_attention"]["slot_size"]
      self.decoder = Decoder(size, **model["decoder"])
    else:
      self.decoder = SetPredictor(**model["classifier"])

  def call(self, images, slots=None):
    """Computes outputs for images [B, H, W, C] in [-1, 1].

    `slots` are the initial slots. If they are None, they are random.
    """
    return self.decoder(self.slot_attention(self.encoder(images), slots))


def loss_of(outputs, images, targets):
  """Computes mean squared error, or Huber loss under the best matching."""
  if "recon_combined" in outputs:
    return tf.reduce_mean(tf.square(outputs["recon_combined"] - images))
  predictions = outputs["predictions"]
  spare = max(predictions.shape[1] - targets.shape[1], 0)
  targets = tf.pad(targets, [[0, 0], [0, spare], [0, 0]])
  # The Keras function averages over the last axis.
  costs = tf.keras.losses.huber(targets[:, None], predictions[:, :, None])
  pairs = tf.numpy_function(match, [costs], tf.int64)
  pairs = tf.ensure_shape(pairs, (costs.shape[0], min(costs.shape[1:]), 2))
  matched = tf.gather_nd(costs, pairs, batch_dims=1)
  return tf.reduce_mean(tf.reduce_sum(matched, axis=-1))


def match(costs: np.ndarray) -> np.ndarray:
  """Matches costs [B, K, M]: rows and columns of pairs, [B, min(K, M), 2]."""
  pairs = [linear_sum_assignment(cost) for cost in costs]
  return np.stack(pairs).swapaxes(1, 2)


def normalize(images):
  """Maps uint8 to float32 in [-1, 1]."""
  return (tf.cast(images, tf.float32) / 255 - 0.5) * 2


def random_batch(specification):
  """Draws uint8 images [B, H, W, C] and targets [B, M, 19]."""
  size, count = specification["batch_size"], specification["max_objects"]
  shape = (size, *specification["image_shape"])
  images = tf.cast(tf.random.uniform(shape, 0, 256, tf.int32), tf.uint8)
  properties = [
    tf.one_hot(tf.random.uniform((size, count), 0, choices, tf.int32), choices)
    for choices in (2, 2, 3, 8)
  ]
  coordinates = tf.random.uniform((size, count, 3))
  flags = tf.ones((size, count, 1))
  return images, tf.concat([coordinates, *properties, flags], axis=-1)


def make(
  specification: dict[str, Any],
) -> tuple[dict[str, workers.Work], dict[str, str], workers.PeakBytes]:
  """Makes the work for `workers.serve`."""
  workers.check_optimizer(specification)
  for gpu in tf.config.list_physical_devices("GPU"):
    # The other workers need memory of the GPU as well.
    tf.config.experimental.set_memory_growth(gpu, True)
  if specification["precision"] == "bfloat16":
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  tf.keras.utils.set_random_seed(0)
  model = Model(specification["image_shape"], specification["model"])
  optimizer = tf.keras.optimizers.Adam(
    specification["learning_rate"], beta_1=0.9, beta_2=0.999, epsilon=1e-8
  )
  max_grad_norm = specification["max_grad_norm"]
  batches = [random_batch(specification) for _ in range(4)]
  model(normalize(batches[0][0][:1]))  # Makes the variables.
  optimizer.build(model.trainable_variables)
  batches = itertools.cycle(batches)

  @tf.function
  def train_step(images, targets):
    images = normalize(images)
    with tf.GradientTape() as tape:
      loss = loss_of(model(images), images, targets)
    variables = model.trainable_variables
    gradients = tape.gradient(loss, variables)
    if max_grad_norm:
      gradients, _ = tf.clip_by_global_norm(gradients, max_grad_norm)
    optimizer.apply_gradients(zip(gradients, variables))
    return loss

  @tf.function
  def apply(images):
    return model(normalize(images))

  def train(steps):
    for images, targets in itertools.islice(batches, steps):
      loss = train_step(images, targets)
    tf.test.experimental.sync_devices()
    return float(loss.numpy())

  def infer(steps):
    for images, _ in itertools.islice(batches, steps):
      outputs = apply(images)
    tf.test.experimental.sync_devices()
    return sum(float(tf.reduce_mean(x)) for x in outputs.values())

  versions = {
    "python": platform.python_version(),
    "tensorflow": tf.__version__,
    "keras": tf.keras.__version__,
  }

  def peak_bytes():
    if tf.config.list_physical_devices("GPU"):
      return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return workers.peak_host_bytes()

  return {"training": train, "inference": infer}, versions, peak_bytes


if __name__ == "__main__":
  workers.serve(make)
