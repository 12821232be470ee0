"""Layers in NumPy, written from their definitions, as references for tests."""

import numpy as np


def conv(x, params, *, stride=1, padding="SAME"):
  """Convolves [B, h, w, D]; pads as TensorFlow does."""
  kernel = params["kernel"]
  size = kernel.shape[0]
  if padding == "SAME":
    pads = []
    for side in x.shape[1:3]:
      total = max((-(-side // stride) - 1) * stride + size - side, 0)
      pads.append((total // 2, total - total // 2))
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
  rows = (x.shape[1] - size) // stride + 1
  columns = (x.shape[2] - size) // stride + 1
  outputs = np.zeros((len(x), rows, columns, kernel.shape[-1]))
  for i in range(rows):
    for j in range(columns):
      top, left = i * stride, j * stride
      patch = x[:, top : top + size, left : left + size]
      outputs[:, i, j] = np.tensordot(patch, kernel, 3)
  return outputs + params.get("bias", 0)


def dense(x, params):
  return x @ params["kernel"] + params["bias"]


def norm(x, params, axes, epsilon=1e-5):
  """Normalises over `axes`, with scale and bias of the last axis."""
  mean = x.mean(axes, keepdims=True)
  variance = ((x - mean) ** 2).mean(axes, keepdims=True)
  x = (x - mean) / np.sqrt(variance + epsilon)
  return x * params["scale"] + params["bias"]


def relu(x):
  return np.maximum(x, 0)


def elu(x):
  return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def softplus(x):
  return np.log1p(np.exp(x))


def softmax(x, axis):
  e = np.exp(x - x.max(axis, keepdims=True))
  return e / e.sum(axis, keepdims=True)


def decode(slots, params, height, width, *, activate, padding):
  """Broadcasts slots [K, D], appends y and x, and applies all convolutions.

  Returns:
    Colours [K, H, W, C] and mask logits [K, H, W].
  """
  kernels = [params[f"conv_{i}"]["kernel"] for i in range(len(params))]
  border = sum(k.shape[0] - 1 for k in kernels) * (padding == "VALID")
  height, width = height + border, width + border
  num_slots, size = slots.shape
  x = np.zeros((num_slots, height, width, size + 2))
  x[..., :size] = slots[:, None, None]
  x[..., size] = np.linspace(-1, 1, height)[:, None]
  x[..., size + 1] = np.linspace(-1, 1, width)
  for i in range(len(params)):
    x = conv(activate(x) if i else x, params[f"conv_{i}"], padding=padding)
  return x[..., :-1], x[..., -1]


def float64(tree):
  """Converts a tree of arrays to NumPy and float64."""
  if isinstance(tree, dict):
    return {name: float64(x) for name, x in tree.items()}
  return np.asarray(tree, np.float64)
