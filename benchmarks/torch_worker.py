"""The worker with the paper's two models in PyTorch, see `benchmarks.workers`.

The models follow the paper and are written as a user of PyTorch would write
them. The program needs only PyTorch, NumPy and SciPy.

Letters in shapes: B batch, H and W image, C colour channels, h and w feature
map, N = h w inputs, K slots, D slot size, M targets, P numbers per object.

If a convolution with strides pads an odd number of pixels, PyTorch pads more at
the start and TensorFlow's "SAME" more at the end. The models here are therefore
mirror images of those in JAX and Keras: with mirrored kernels, mirrored images
give mirrored outputs.
"""

from collections.abc import Mapping
import functools
import itertools
import platform
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
import torch
from torch import nn
from torch.nn import functional

from benchmarks import workers

# The epsilon of Keras, as in the official code.
LayerNorm = functools.partial(nn.LayerNorm, eps=1e-3)


def make_mlp(size: int, hidden_size: int, num_outputs: int) -> nn.Module:
  return nn.Sequential(
    nn.Linear(size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, num_outputs)
  )


class SoftPositionEmbedding(nn.Module):
  """Adds a projection of the distances to the four borders."""

  def __init__(self, height, width, size):
    super().__init__()
    y, x = torch.meshgrid(
      torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    grid = torch.stack([y, x, 1 - y, 1 - x], dim=-1)
    self.register_buffer("grid", grid, persistent=False)
    self.dense = nn.Linear(4, size)

  def forward(self, x):
    """Maps [B, h, w, D] or [B, 1, 1, D] to [B, h, w, D]."""
    return x + self.dense(self.grid)


class Encoder(nn.Module):
  """Convolutional encoder with position embedding."""

  def __init__(
    self, image_shape, features, strides, kernel_size, mlp_size, **_
  ):
    super().__init__()
    height, width, channels = image_shape
    self.convs = nn.Sequential()
    for size, stride in zip(features, strides):
      conv = nn.Conv2d(channels, size, kernel_size, stride, kernel_size // 2)
      self.convs.extend([conv, nn.ReLU()])
      height, width = -(-height // stride), -(-width // stride)
      channels = size
    self.position_embedding = SoftPositionEmbedding(height, width, channels)
    self.layer_norm = LayerNorm(channels)
    self.mlp = make_mlp(channels, mlp_size, mlp_size)

  def forward(self, images):
    """Maps images [B, C, H, W] to features [B, N, mlp_size]."""
    x = self.convs(images).permute(0, 2, 3, 1)
    x = self.position_embedding(x).flatten(1, 2)
    return self.mlp(self.layer_norm(x))


class SlotAttention(nn.Module):
  """Algorithm 1."""

  def __init__(
    self,
    inputs_size,
    num_slots,
    num_iterations,
    slot_size,
    mlp_hidden_size,
    epsilon,
    **_,
  ):
    super().__init__()
    self.num_slots, self.slot_size = num_slots, slot_size
    self.num_iterations, self.epsilon = num_iterations, epsilon
    self.slots_mu = nn.Parameter(torch.empty(1, slot_size))
    self.slots_log_sigma = nn.Parameter(torch.empty(1, slot_size))
    self.norm_inputs = LayerNorm(inputs_size)
    self.norm_slots = LayerNorm(slot_size)
    self.norm_mlp = LayerNorm(slot_size)
    self.project_q = nn.Linear(slot_size, slot_size, bias=False)
    self.project_k = nn.Linear(inputs_size, slot_size, bias=False)
    self.project_v = nn.Linear(inputs_size, slot_size, bias=False)
    self.gru = nn.GRUCell(slot_size, slot_size)
    self.mlp = make_mlp(slot_size, mlp_hidden_size, slot_size)

  def forward(self, inputs, slots=None):
    """Maps inputs [B, N, inputs_size] to slots [B, K, D].

    If `slots` is None, the initial slots are random.
    """
    if slots is None:
      shape = (len(inputs), self.num_slots, self.slot_size)
      noise = torch.randn(shape, device=inputs.device)
      slots = self.slots_mu + self.slots_log_sigma.exp() * noise
    inputs = self.norm_inputs(inputs)
    k, v = self.project_k(inputs), self.project_v(inputs)
    for _ in range(self.num_iterations):
      q = self.project_q(self.norm_slots(slots)) * self.slot_size**-0.5
      attn = (k @ q.mT).softmax(dim=-1) + self.epsilon
      weights = attn / attn.sum(dim=1, keepdim=True)
      updates = weights.mT @ v
      slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1))
      slots = slots.view_as(updates)
      slots = slots + self.mlp(self.norm_mlp(slots))
    return slots


class Decoder(nn.Module):
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
    super().__init__()
    self.position_embedding = SoftPositionEmbedding(*broadcast_size, size)
    self.convs = nn.Sequential()
    for features_out, stride in zip(features, strides):
      conv = nn.ConvTranspose2d(
        size, features_out, kernel_size, stride, kernel_size // 2, stride - 1
      )
      self.convs.extend([conv, nn.ReLU()])
      size = features_out
    self.conv_out = nn.ConvTranspose2d(size, channels + 1, 3, padding=1)

  def forward(self, slots):
    """Maps slots [B, K, D] to recons [B, K, C, H, W], masks and their sum."""
    x = self.position_embedding(slots.flatten(0, 1)[:, None, None])
    x = self.conv_out(self.convs(x.permute(0, 3, 1, 2)))
    x = x.unflatten(0, slots.shape[:2])
    recons, masks = x[:, :, :-1], x[:, :, -1:].softmax(dim=1)
    recon_combined = (masks * recons).sum(dim=1)
    return {"recon_combined": recon_combined, "recons": recons, "masks": masks}


class SetPredictor(nn.Module):
  """Predicts the properties of the object of each slot."""

  def __init__(self, size, hidden_size, num_outputs):
    super().__init__()
    self.mlp = make_mlp(size, hidden_size, num_outputs)

  def forward(self, slots):
    """Maps [B, K, D] to [B, K, P] in [0, 1]."""
    return {"predictions": self.mlp(slots).sigmoid()}


class Model(nn.Module):
  """The whole model: encoder, Slot Attention, and decoder or classifier.

  Args:
    image_shape: [H, W, C].
    model: the section of the config.

  Raises:
    ValueError: if the model is another variant than the paper's.
  """

  def __init__(self, image_shape: list[int], model: Mapping[str, Any]):
    super().__init__()
    workers.check_variant(model)
    sizes = [x["kernel_size"] for x in model.values() if "kernel_size" in x]
    if any(size % 2 == 0 for size in sizes):
      raise ValueError("the PyTorch worker has only odd kernel sizes")
    size = model["slot_attention"]["slot_size"]
    self.encoder = Encoder(image_shape, **model["encoder"])
    self.slot_attention = SlotAttention(
      model["encoder"]["mlp_size"], **model["slot_attention"]
    )
    if "decoder" in model:
      self.decoder = Decoder(size, **model["decoder"])
    else:
      self.decoder = SetPredictor(size, **model["classifier"])
    for name, parameter in self.named_parameters():
      if parameter.ndim > 1:
        nn.init.xavier_uniform_(parameter)
      elif name.endswith("bias"):
        nn.init.zeros_(parameter)

  def forward(self, images, slots=None):
    """Computes outputs for images [B, C, H, W] in [-1, 1].

    `slots` are the initial slots. If they are None, they are random.
    """
    return self.decoder(self.slot_attention(self.encoder(images), slots))


def loss_of(outputs, images, targets):
  """Computes mean squared error, or Huber loss under the best matching."""
  if "recon_combined" in outputs:
    return functional.mse_loss(outputs["recon_combined"].float(), images)
  predictions = outputs["predictions"].float()
  spare = max(predictions.shape[1] - targets.shape[1], 0)
  targets = functional.pad(targets, (0, 0, 0, spare))
  pairs = torch.broadcast_tensors(predictions[:, :, None], targets[:, None])
  costs = functional.huber_loss(*pairs, reduction="none").mean(dim=-1)
  rows, columns = match(costs.detach())
  examples = torch.arange(len(costs), device=costs.device)[:, None]
  return costs[examples, rows, columns].sum(dim=-1).mean()


@torch.compiler.disable
def match(costs):
  """Matches costs [B, K, M]: rows and columns of pairs, [2, B, min(K, M)]."""
  pairs = [linear_sum_assignment(cost) for cost in costs.cpu().numpy()]
  return torch.from_numpy(np.stack(pairs, axis=1)).to(costs.device)


def normalize(images):
  """Maps uint8 to float32 in [-1, 1]."""
  return (images.float() / 255 - 0.5) * 2


def random_batch(specification, device):
  """Draws uint8 images [B, C, H, W] and targets [B, M, 19].

  The channels of the images are last in memory.
  """
  size, count = specification["batch_size"], specification["max_objects"]
  images = torch.randint(
    256, (size, *specification["image_shape"]), dtype=torch.uint8
  ).permute(0, 3, 1, 2)
  properties = [
    functional.one_hot(torch.randint(choices, (size, count)), choices)
    for choices in (2, 2, 3, 8)
  ]
  flags = torch.ones(size, count, 1)
  targets = torch.cat([torch.rand(size, count, 3), *properties, flags], dim=-1)
  return images.to(device), targets.to(device)


def make(
  specification: dict[str, Any],
) -> tuple[dict[str, workers.Work], dict[str, str], workers.PeakBytes]:
  """Makes the work for `workers.serve`."""
  workers.check_optimizer(specification)
  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  versions = {"python": platform.python_version(), "torch": torch.__version__}
  if device.type == "cuda":
    # As JAX and TensorFlow do by default, use TensorFloat32 and search for the
    # fastest convolutions.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    versions["device"] = torch.cuda.get_device_name()
  torch.manual_seed(0)
  model = Model(specification["image_shape"], specification["model"])
  model = model.to(device, memory_format=torch.channels_last)
  optimizer = torch.optim.Adam(
    model.parameters(),
    lr=specification["learning_rate"],
    betas=(0.9, 0.999),
    eps=1e-8,
    fused=True,
  )
  max_grad_norm = specification["max_grad_norm"]
  batches = itertools.cycle(
    [random_batch(specification, device) for _ in range(4)]
  )

  def apply(images):
    bfloat16 = specification["precision"] == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
      return model(images)

  def normalize_and_apply(images):
    return apply(normalize(images))

  def apply_and_compare(images, targets):
    images = normalize(images)
    return loss_of(apply(images), images, targets)

  maybe_compile = torch.compile if specification["compile"] else lambda f: f
  forward = maybe_compile(normalize_and_apply)
  forward_and_loss = maybe_compile(apply_and_compare)

  def wait():
    if device.type == "cuda":
      torch.cuda.synchronize()

  def train(steps):
    for images, targets in itertools.islice(batches, steps):
      optimizer.zero_grad()
      loss = forward_and_loss(images, targets)
      loss.backward()
      if max_grad_norm:
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
      optimizer.step()
    wait()
    return loss.item()

  @torch.no_grad()
  def infer(steps):
    for images, _ in itertools.islice(batches, steps):
      outputs = forward(images)
    wait()
    return sum(x.float().mean().item() for x in outputs.values())

  peak_bytes = (
    torch.cuda.max_memory_allocated
    if device.type == "cuda"
    else workers.peak_host_bytes
  )
  return {"training": train, "inference": infer}, versions, peak_bytes


if __name__ == "__main__":
  workers.serve(make)
