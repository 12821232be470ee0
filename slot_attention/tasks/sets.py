"""Set prediction: models that describe the objects of an image."""

import dataclasses

import jax
import jax.numpy as jnp

from slot_attention import losses, metrics, models, visualization
from slot_attention.checks import check_at_least
from slot_attention.data import clevr
from slot_attention.tasks.task import Task, draw_attention


def set_prediction(
  model: models.SetPrediction,
  *,
  max_objects: int,
  use_all_iterations: bool,
  coordinate_scale: float,
) -> Task:
  """Makes the task to predict the properties of all objects (Section 4.2).

  Args:
    model: to train.
    max_objects: in an image.
    use_all_iterations: whether the loss is the mean of the losses after every
      iteration, and not the loss after the last one (Figure 23).
    coordinate_scale: see `losses.hungarian_huber_loss`.

  Raises:
    ValueError: for options that cannot be used with this model.
  """
  if use_all_iterations and isinstance(model.slot_attention, models.SlotMLP):
    raise ValueError(
      "loss.use_all_iterations=True: the Slot MLP has no iterations"
    )
  gradient = getattr(model.slot_attention, "gradient", "unrolled")
  if use_all_iterations and gradient != "unrolled":
    raise ValueError(
      "loss.use_all_iterations=True: the losses of earlier iterations have"
      f" gradients through all of them, which gradient={gradient!r} excludes"
    )
  check_at_least("loss.coordinate_scale", coordinate_scale, 0)

  def loss(outputs, batch):
    def loss_of(predictions):
      return losses.hungarian_huber_loss(
        predictions, batch["targets"], coordinate_scale=coordinate_scale
      )

    if use_all_iterations:
      per_iteration = jax.vmap(loss_of, in_axes=1)
      return jnp.mean(
        per_iteration(outputs["predictions_per_iteration"]), axis=0
      )
    return loss_of(outputs["predictions"])

  return _sets(model, loss, max_objects, model.classifier.num_outputs)


def dspn(model: models.DSPN, *, max_objects: int, code_weight: float) -> Task:
  """Makes the task of DSPN.

  The loss is the Hungarian Huber loss of the last set, in DSPN's scale of the
  coordinates and averaged over the pairs, plus the weighted Huber loss between
  the codes of image and targets.

  Args:
    model: to train.
    max_objects: in an image.
    code_weight: weight of the loss between the codes.
  """
  check_at_least("loss.code_weight", code_weight, 0)

  def loss(outputs, batch):
    targets = models.from_targets(batch["targets"])
    set_loss = losses.hungarian_huber_loss(outputs["slots"], targets)
    set_loss /= model.set_decoder.num_slots
    return set_loss + code_weight * models.code_loss(
      outputs["codes"], outputs["target_codes"]
    )

  task = _sets(model, loss, max_objects, model.set_decoder.num_outputs)
  return dataclasses.replace(
    task, more_inputs=("targets",), has_free_slots=False
  )


def _sets(model, loss, max_objects, num_outputs):
  """Makes a task of a model that describes objects."""

  def measure(outputs, batch):
    measured = {
      "loss": loss(outputs, batch),
      "predictions": outputs["predictions"],
      "targets": batch["targets"],
    }
    if "attn" in outputs and "segments" in batch:
      measured["attn_ari"] = metrics.attention_ari(
        outputs["attn"][:, -1],
        batch["segments"],
        num_segments=max_objects + 1,
      )
    return measured

  def collect(measured):
    kind = metrics.SetPredictionMetrics
    if "attn_ari" in measured:
      kind = metrics.SetPredictionWithMasksMetrics
    return kind.single_from_model_output(**measured)

  def draw(folder, outputs, batch):
    if "predictions_per_iteration" not in outputs:
      return []
    path = folder / "predictions.png"
    visualization.draw_predictions(
      path,
      batch["images"],
      batch["targets"],
      outputs["predictions_per_iteration"],
      clevr.PROPERTIES,
    )
    return [path, *draw_attention(folder, outputs, batch)]

  return Task(
    model=model,
    loss=loss,
    measure=measure,
    metrics=collect,
    draw=draw,
    num_outputs=num_outputs,
  )
