"""The one train loop, for every task."""

from collections.abc import Callable, Sequence
import json
from pathlib import Path
import time
from typing import Any, NamedTuple
import zlib

from absl import logging
import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from slot_attention import parallel, tasks, validation
from slot_attention.data import batches, loading
from slot_attention.progress import progress_bar
from slot_attention.training import (
  checkpoints,
  evaluate,
  initial,
  optimizers,
  runs,
  stopping,
  writers,
)


@flax.struct.dataclass
class TrainState:
  """The state of training, which a checkpoint holds.

  Attributes:
    step: finished updates, int32 scalar.
    params: of the model.
    optimizer: of optax.
  """

  step: jax.Array
  params: Any
  optimizer: Any


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  on_metrics: writers.OnMetrics | None = None,
) -> dict[str, float] | None:
  """Trains until config.num_steps, from the newest checkpoint if there is one.

  Args:
    config: of the experiment, see configs/.
    workdir: of the run: checkpoints, metrics and pictures.
    on_metrics: called in the first process with every line of metrics: step,
      split and metrics. It can send them elsewhere.

  Returns:
    The metrics of the last evaluation, or None if max_minutes ended the run
    before its last step. Run it again to go on.

  Raises:
    ValueError: if the config cannot work, or if the workdir belongs to a run
      with another config or has only damaged checkpoints.
    OSError: if something cannot be written. Earlier checkpoints stay.
    FloatingPointError: at a loss or gradient that is not finite; names the step
      and the examples. No checkpoint has it.
    InterruptedRunError: after SIGTERM or SIGINT.
  """
  start = time.monotonic()
  config = validation.checked(
    config, num_devices=parallel.num_devices(), is_trained=True
  )
  runs.claim(workdir, config)
  # The lock comes first: a checkpoint that another process saves after this one
  # has looked would count as damaged.
  with runs.lock(workdir):
    return _train(config, workdir, on_metrics, start)


def _train(config, workdir, on_metrics, start):
  """Trains a model in a folder that this process has locked, see `train`."""
  goes_on = checkpoints.has_any(workdir)
  others = {} if goes_on else initial.read(config.initial_params)
  data = loading.load(config.data)
  if not len(data.splits["train"]):
    raise ValueError(
      f"data.num_train={config.data.num_train} leaves nothing to train on"
    )
  task = tasks.make_task(config)
  validation.warn_about_slots(config, task)
  optimizer, schedule = optimizers.from_config(config)
  init_key, slots_key = jax.random.split(jax.random.key(config.seed))
  params = initial.start_from(others, task.init(init_key, data.image_shape))
  state = TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params))
  state, first_step = _restore(state, config, workdir)
  # The steps before a converted checkpoint, whose optimiser starts anew.
  skipped = first_step - optimizers.num_updates(state.optimizer)
  _check_processes(config, data, first_step)
  logging.info(
    "%d parameters on %d device(s) of kind %s, from step %d of %d in %s",
    sum(x.size for x in jax.tree.leaves(params)),
    parallel.num_devices(),
    jax.local_devices()[0].device_kind,
    first_step,
    config.num_steps,
    workdir,
  )
  state = parallel.replicate(state)

  train_step = make_train_step(task, optimizer, slots_key)
  run_evaluation = evaluate.make_evaluator(
    task,
    data.splits["eval"],
    batch_size=config.eval_batch_size,
    placement=config.data_placement,
  )
  draw = evaluate.make_artist(workdir, config, task, data)
  feeder = batches.Feeder(data.splits["train"], config.data_placement)
  dispatches = range(first_step, config.num_steps, config.steps_per_dispatch)
  train_batches = feeder.train_batches(
    dispatches, batch_size=config.batch_size, seed=config.seed
  )

  metrics = None
  losses = []  # On the devices, of the steps that the host has not read yet.
  step = first_step
  with (
    stopping.Stopper(start, config.max_minutes) as stopper,
    checkpoints.open_checkpoints(
      workdir, config.keep_checkpoints, first_step
    ) as manager,
    writers.MetricWriter(workdir, first_step, on_metrics) as writer,
    progress_bar(
      total=config.num_steps,
      initial=first_step,
      desc="training",
      unit="step",
      disable=not parallel.is_first_process(),
    ) as progress,
  ):
    runs.save_config(workdir, config)
    runs.save_data(workdir, data.description)
    for done, batch in zip(dispatches, train_batches):
      state, loss = train_step(state, batch)
      losses.append(loss)
      # The host is at most one dispatch ahead, so that the run can stop soon.
      jax.block_until_ready(losses[-2:-1])
      step = done + config.steps_per_dispatch
      progress.update(config.steps_per_dispatch)
      stop = stopper.must_stop(step // config.steps_per_dispatch)
      due = _due(config, step, stop)

      if any(due):
        values = np.concatenate(parallel.on_host(losses))
        losses.clear()
        if not np.isfinite(values).all():
          bad_step = step - len(values) + 1 + int(np.isnan(values).argmax())
          raise FloatingPointError(
            _describe_bad_step(bad_step, config, data, workdir, manager)
          )
      if due.log:
        loss, rate = float(values[-1]), float(schedule(step - 1 - skipped))
        progress.set_postfix(loss=f"{loss:.4g}")
        writer.write(step, "train", {"loss": loss, "learning_rate": rate})
        writer.write_speed(step, config.batch_size)
      if due.evaluate:
        metrics = run_evaluation(state.params)
        writer.write(step, "eval", metrics)
        if parallel.is_first_process():
          progress.write(f"step {step}: {_rounded(metrics)}")
          if step < config.num_steps:
            writer.write_pictures(step, draw(state.params))
      if due.save:
        writer.sync()
        saved = parallel.unreplicate(state)
        checkpoints.save(manager, step, saved.params, saved.optimizer)
      if stop:
        break

  if step < config.num_steps:
    stopper.explain(step, config.num_steps, workdir)
    return None
  if metrics is None:  # Nothing was left to train.
    metrics = run_evaluation(state.params)
  if parallel.is_first_process():
    pictures = draw(state.params)
    evaluate.report(workdir, config, data, step, metrics, pictures)
  return metrics


def make_train_step(
  task: tasks.Task,
  optimizer: optax.GradientTransformation,
  slots_key: jax.Array,
  devices: Sequence[jax.Device] | None = None,
) -> Callable[[TrainState, batches.Batch], tuple[TrainState, jax.Array]]:
  """Compiles the updates of one dispatch for all devices.

  Args:
    task: whose model is trained.
    optimizer: of its parameters.
    slots_key: of the noise of the initial slots.
    devices: see `parallel.data_parallel`.

  Returns:
    A function of the replicated state, which it consumes, and the sharded
    batches of n steps. It returns the next state and the mean loss over the
    batch of every step, [n] on each device. The loss is NaN if it or any number
    of the next state is not finite, as after a gradient that is not finite.
  """

  def train_step(state, batch):
    batch = tasks.normalize(batch)

    def mean_loss(params):
      key = jax.random.fold_in(slots_key, state.step)
      outputs = task.apply(params, batch, key, training=True)
      return jnp.mean(task.loss(outputs, batch))

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    loss, grads = parallel.mean_over_devices((loss, grads))
    updates, optimizer_state = optimizer.update(
      grads, state.optimizer, state.params
    )
    params = optax.apply_updates(state.params, updates)
    state = TrainState(state.step + 1, params, optimizer_state)
    finite = [jnp.isfinite(x).all() for x in jax.tree.leaves((loss, state))]
    return state, jnp.where(jnp.stack(finite).all(), loss, jnp.nan)

  def train_steps(state, batches):
    steps_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batches)
    return jax.lax.scan(train_step, state, steps_first)

  return parallel.data_parallel(train_steps, (0,), devices)


class _Due(NamedTuple):
  """What is done after a step."""

  log: bool
  evaluate: bool
  save: bool


def _due(config, step, stop):
  log, evaluation, save = (
    step % every == 0 or step == config.num_steps
    for every in (config.log_every, config.eval_every, config.checkpoint_every)
  )
  return _Due(log, evaluation, save or stop)


def _restore(state, config, workdir):
  """Returns the newest checkpoint's state, or the given one, and its step."""
  first_step, items = checkpoints.restore_newest(
    workdir, {"params": state.params, "optimizer": state.optimizer}
  ) or (0, {})
  if first_step % config.steps_per_dispatch:
    raise ValueError(
      f"steps_per_dispatch={config.steps_per_dispatch} does not divide the"
      f" {first_step} steps of the newest checkpoint in {workdir}"
    )
  return state.replace(step=jnp.int32(first_step), **items), first_step


def _check_processes(config, data, first_step):
  """Raises a ValueError if processes would not train the same run."""
  fields = config.to_dict()
  for place in ("data_dir", "path"):  # Disks differ.
    del fields["data"][place]
  parallel.check_agreement(
    {
      # 31 bits, as `check_agreement` takes.
      "config": zlib.crc32(json.dumps(fields, sort_keys=True).encode()) >> 1,
      "number of devices": jax.local_device_count(),
      "newest checkpoint": first_step,
      **{f"{name} examples": len(x) for name, x in data.splits.items()},
    }
  )


def _rounded(metrics):
  return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _describe_bad_step(step, config, data, workdir, manager):
  split = data.splits["train"]
  examples = split.examples[
    batches.examples_of_step(
      step - 1,
      batch_size=config.batch_size,
      num_examples=len(split),
      seed=config.seed,
    )
  ]
  manager.wait_until_finished()
  newest = manager.latest_step()
  place = f"there is no checkpoint yet, so {workdir} can be used again"
  if newest:
    place = (
      f"the last checkpoint is of step {newest}, in {workdir}, so another"
      " --workdir is needed"
    )
  return (
    f"the loss or a gradient is not finite at step {step}. Try a lower"
    f" learning_rate, more warmup_steps, or another max_grad_norm; {place}. The"
    " examples of that step in the data set:"
    f" {', '.join(map(str, examples.tolist()))}"
  )
