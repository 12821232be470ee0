"""Object discovery: models that draw images slot by slot."""

import dataclasses

import jax
import jax.numpy as jnp

from slot_attention import losses, metrics, models, visualization
from slot_attention.checks import check_at_least
from slot_attention.tasks.task import Task, draw_attention


def object_discovery(
  model: models.ObjectDiscovery, *, max_objects: int
) -> Task:
  """Makes the task to reconstruct images slot by slot (Section 4.1)."""
  return _discovery(
    model, _squared_error, max_objects, model.decoder.image_shape
  )


def adaptive_object_discovery(
  model: models.AdaptiveObjectDiscovery, *, max_objects: int, sparsity: float
) -> Task:
  """Makes the task of AdaSlot.

  Args:
    model: to train.
    max_objects: in an image.
    sparsity: weight of the share of slots that are kept, beside the squared
      error (`SparsePenalty` in the paper's code).
  """
  check_at_least("loss.sparsity", sparsity, 0)

  def loss(outputs, batch):
    share = outputs["keep"].mean(axis=1)
    return _squared_error(outputs, batch) + sparsity * share

  task = _discovery(model, loss, max_objects, model.decoder.image_shape)

  def measure(outputs, batch):
    kept_slots = outputs["keep"].sum(axis=1)
    return {**task.measure(outputs, batch), "kept_slots": kept_slots}

  return dataclasses.replace(task, measure=measure)


def video_object_discovery(
  model: models.VideoDiscovery, *, max_objects: int
) -> Task:
  """Makes the task of SAVi: to reconstruct videos slot by slot.

  The loss is the squared error over all frames. The metrics compare the pixels
  of all frames at once, so an object that changes its slot counts as wrong.
  """
  task = _discovery(
    model, _squared_error, max_objects, model.decoder.image_shape
  )
  return dataclasses.replace(
    task,
    loss=lambda outputs, batch: task.loss(*_strips(outputs, batch)),
    measure=lambda outputs, batch: task.measure(*_strips(outputs, batch)),
    draw=lambda folder, outputs, batch: task.draw(
      folder, *_frames(outputs, batch)
    ),
    takes_videos=True,
  )


def iodine(model: models.Iodine, *, max_objects: int) -> Task:
  """Makes the task of IODINE: refinement t of T weighs t / T in the loss."""

  def loss(outputs, batch):
    del batch  # The model has compared itself with its images.
    terms = outputs["nll"] + outputs["kl"]
    return terms @ jnp.linspace(0, 1, terms.shape[1])

  size = model.pixel_decoder.image_shape
  task = _discovery(model, loss, max_objects, size)
  return dataclasses.replace(task, least_slots=2)


def monet(
  model: models.MONet,
  *,
  max_objects: int,
  sigma_background: float,
  sigma_foreground: float,
  beta: float,
  gamma: float,
) -> Task:
  """Makes the task of MONet, whose options are those of `models.monet_loss`."""
  check_at_least("loss.sigma_background", sigma_background, 1e-3)
  check_at_least("loss.sigma_foreground", sigma_foreground, 1e-3)
  check_at_least("loss.beta", beta, 0)
  check_at_least("loss.gamma", gamma, 0)

  def loss(outputs, batch):
    return models.monet_loss(
      outputs,
      batch["images"],
      sigma_background=sigma_background,
      sigma_foreground=sigma_foreground,
      beta=beta,
      gamma=gamma,
    )

  return _discovery(model, loss, max_objects, model.pixel_decoder.image_shape)


def nem(
  model: models.NeuralEM, *, max_objects: int, use_all_iterations: bool
) -> Task:
  """Makes the task of N-EM and R-NEM.

  Args:
    model: to train.
    max_objects: in an image.
    use_all_iterations: whether the loss is the mean of the losses after every
      step (R-NEM), and not the loss after the last one (N-EM on images).
  """

  def loss(outputs, batch):
    del batch  # The model has compared itself with its images.
    terms = outputs["nll"] + outputs["kl"]
    return terms.mean(axis=1) if use_all_iterations else terms[:, -1]

  task = _discovery(
    model, loss, max_objects, model.bernoulli_decoder.image_shape
  )
  return dataclasses.replace(task, needs_binary_images=True)


def _squared_error(outputs, batch):
  return losses.reconstruction_loss(outputs["recon_combined"], batch["images"])


def _strips(outputs, batch):
  """Turns each video into one image, with the frames below each other.

  [B, F, H, W, C] becomes [B, F * H, W, C]. A mean or a comparison over the
  pixels of such an image is one over the whole video.
  """

  def strip(x):
    return x.reshape(x.shape[0], -1, *x.shape[3:])

  masks = jnp.moveaxis(outputs["masks"], 2, 1)  # [B, K, F, H, W, 1]
  outputs = {
    "recon_combined": strip(outputs["recon_combined"]),
    "masks": masks.reshape(*masks.shape[:2], -1, *masks.shape[4:]),
  }
  given = batch.keys() & {"images", "segments"}
  return outputs, {name: strip(batch[name]) for name in given}


def _frames(outputs, batch):
  """Turns the frames of all videos into single images, in order."""

  def frames(x):
    return x.reshape(-1, *x.shape[2:])

  return jax.tree.map(frames, outputs), {"images": frames(batch["images"])}


def _discovery(model, loss, max_objects, image_shape):
  """Makes a task of a model that draws images slot by slot.

  If the loss is not the squared error, that error is the metric "mse", so that
  all models can be compared.
  """

  def measure(outputs, batch):
    measured = {"loss": loss(outputs, batch)}
    if loss is not _squared_error:
      measured["mse"] = _squared_error(outputs, batch)
    if "segments" in batch:
      measured |= metrics.segmentation_metrics(
        outputs["masks"], batch["segments"], num_segments=max_objects + 1
      )
    return measured

  def collect(measured):
    return metrics.averages(measured).single_from_model_output(**measured)

  def draw(folder, outputs, batch):
    path = folder / "slots.png"
    visualization.draw_slots(path, batch["images"], outputs)
    return [path, *draw_attention(folder, outputs, batch)]

  return Task(model, loss, measure, collect, draw, image_shape)
