"""The one train loop, for every task."""

from collections.abc import Callable, Iterator
import contextlib
import json
from pathlib import Path
import signal
import time
from typing import Any
import zlib

from absl import logging
import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from slot_attention import parallel, tasks
from slot_attention.checks import (
  check_at_least,
  check_choice,
  check_fields,
  check_section,
  check_type,
)
from slot_attention.data import batches, prepare
from slot_attention.progress import progress_bar
from slot_attention.training import checkpoints, evaluate, writers

_SECTIONS = ("data", "model", "loss")
# Every other field of a config but the task: type and least value.
_FIELDS = {
  "seed": (int, 0),
  "batch_size": (int, 1),
  "num_steps": (int, 1),
  "learning_rate": (float, 0),
  "warmup_steps": (int, 0),
  "decay_rate": (float, 0),
  "decay_steps": (int, 1),
  "max_grad_norm": (float, 0),
  "max_minutes": (float, 0),
  "log_every": (int, 1),
  "eval_every": (int, 1),
  "eval_batch_size": (int, 1),
  "checkpoint_every": (int, 1),
  "keep_checkpoints": (int, 1),
  "data_placement": (str, None),
  "steps_per_dispatch": (int, 1),
  "compute_dtype": (str, None),
  "num_cpu_devices": (int, 1),
}


class InterruptedRunError(Exception):
  """A signal ended the run before its last step; the state is saved."""


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds.

  Attributes:
    step: finished updates, int32 scalar.
    params: of the model.
    optimizer: of optax.
  """

  step: jax.Array
  params: Any
  optimizer: Any


def learning_rate_schedule(
  *,
  learning_rate: float,
  warmup_steps: int,
  decay_rate: float,
  decay_steps: int,
) -> optax.Schedule:
  """The official schedule: exponential decay, which also runs in the warm-up.

  At the 0-based step s,
  learning_rate * min(1, s / warmup_steps) * decay_rate ** (s / decay_steps);
  the first update has rate 0. (`optax.warmup_exponential_decay_schedule` begins
  to decay after the warm-up.)
  """

  def schedule(step):
    warmup = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
    return learning_rate * warmup * decay_rate ** (step / decay_steps)

  return schedule


def make_optimizer(
  schedule: optax.Schedule, max_grad_norm: float
) -> optax.GradientTransformation:
  """Adam with the paper's constants (Table 11a).

  Args:
    schedule: learning rate of a step.
    max_grad_norm: global norm to which gradients are clipped; 0 for none, as
      in the paper.
  """
  adam = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
  if not max_grad_norm:
    return adam
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), adam)


def make_train_step(
  task: tasks.Task,
  optimizer: optax.GradientTransformation,
  slots_key: jax.Array,
) -> Callable[[TrainState, batches.Batch], tuple[TrainState, jax.Array]]:
  """Compiles the updates of one dispatch for all devices.

  Returns:
    A function of the replicated state, which it consumes, and the sharded
    batches of n steps. It returns the next state and the mean loss over the
    batch of every step, [n] on each device; NaN in its place if anything in the
    loss or in the next state, which a bad gradient spoils, is not finite.
  """

  def train_step(state, batch):
    batch = tasks.normalize(batch)

    def mean_loss(params):
      key = jax.random.fold_in(slots_key, state.step)
      return jnp.mean(task.loss(task.apply(params, batch, key), batch))

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

  return parallel.data_parallel(train_steps, donate_argnums=(0,))


def train(
  config: ml_collections.ConfigDict, workdir: Path
) -> dict[str, float] | None:
  """Trains until config.num_steps, from the newest checkpoint if there is one.

  Args:
    config: of the experiment, see configs/.
    workdir: of the run: checkpoints, metrics and pictures.

  Returns:
    The metrics of the last evaluation, or None if max_minutes ended the run
    before its last step. Run it again to go on.

  Raises:
    ValueError: for a config that cannot work, a workdir that belongs to
      another one, or one whose checkpoints are all damaged.
    OSError: if something cannot be written. Earlier checkpoints stay.
    FloatingPointError: at a loss or gradient that is not finite; names the step
      and the examples. No checkpoint has it.
    InterruptedRunError: after SIGTERM or SIGINT.
  """
  start = time.monotonic()
  check_config(config)
  parallel.check_divisible("batch_size", config.batch_size)
  parallel.check_divisible("eval_batch_size", config.eval_batch_size)
  task = tasks.make_task(config)
  checkpoints.check_workdir(workdir, config)
  data = prepare.load(config.data)
  if not len(data.splits["train"]):
    raise ValueError(
      f"data.num_train={config.data.num_train} leaves nothing to train on"
    )

  schedule = learning_rate_schedule(
    learning_rate=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_rate=config.decay_rate,
    decay_steps=config.decay_steps,
  )
  optimizer = make_optimizer(schedule, config.max_grad_norm)
  init_key, slots_key = jax.random.split(jax.random.key(config.seed))
  params = task.init(init_key, data.image_shape)
  state = TrainState(jnp.int32(0), params, optimizer.init(params))

  first_step, items = checkpoints.restore_newest(
    workdir, params=params, optimizer=state.optimizer
  ) or (0, {})
  if first_step % config.steps_per_dispatch:
    raise ValueError(
      f"steps_per_dispatch={config.steps_per_dispatch} does not divide the"
      f" {first_step} steps of the newest checkpoint in {workdir}"
    )
  checkpoints.save_config(workdir, config)
  state = state.replace(step=jnp.int32(first_step), **items)
  _check_processes(config, first_step)
  state = parallel.replicate(state)
  logging.info(
    "%d parameters on %d device(s) of kind %s, from step %d of %d in %s",
    sum(x.size for x in jax.tree.leaves(params)),
    parallel.num_devices(),
    jax.local_devices()[0].device_kind,
    first_step,
    config.num_steps,
    workdir,
  )

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
    dispatches,
    batch_size=config.batch_size,
    seed=config.seed,
  )

  metrics = None
  losses = []  # Of the steps since the last look at them, on the devices.
  step = first_step
  with (
    _catch_signals() as caught,
    checkpoints.lock(workdir),
    checkpoints.open_checkpoints(
      workdir, config.keep_checkpoints, first_step
    ) as manager,
    writers.MetricWriter(workdir, first_step) as writer,
    progress_bar(
      total=config.num_steps,
      initial=first_step,
      desc="training",
      unit="step",
      disable=not parallel.is_first_process(),
    ) as progress,
  ):
    for done, batch in zip(dispatches, train_batches):
      state, loss = train_step(state, batch)
      losses.append(loss)
      step = done + config.steps_per_dispatch
      progress.update(config.steps_per_dispatch)

      minutes = (time.monotonic() - start) / 60
      out_of_time = bool(config.max_minutes) and minutes >= config.max_minutes
      stop = parallel.agree_to_stop(
        out_of_time or bool(caught), step // config.steps_per_dispatch
      )
      last = step == config.num_steps
      log = step % config.log_every == 0 or last
      evaluation = step % config.eval_every == 0 or last
      save = step % config.checkpoint_every == 0 or last or stop

      if log or evaluation or save:
        values = np.concatenate([loss[0] for loss in jax.device_get(losses)])
        losses.clear()
        if not np.isfinite(values).all():
          bad_step = step - len(values) + 1 + int(np.isnan(values).argmax())
          raise FloatingPointError(
            _describe_bad_step(bad_step, config, data, workdir, manager)
          )
      if log:
        progress.set_postfix(loss=f"{values[-1]:.4g}")
        rate = float(schedule(step - 1))
        loss = float(values[-1])
        writer.write(step, "train", {"loss": loss, "learning_rate": rate})
      if evaluation:
        metrics = run_evaluation(state.params)
        writer.write(step, "eval", metrics)
        if parallel.is_first_process():
          progress.write(
            f"step {step}: "
            + ", ".join(f"{name} {x:.4f}" for name, x in metrics.items())
          )
          if not last:
            writer.write_pictures(step, draw(state.params))
      if save:
        writer.sync()
        saved = parallel.unreplicate(state)
        checkpoints.save(manager, step, saved.params, saved.optimizer)
      if stop:
        break

  if step < config.num_steps:
    message = (
      f"step {step} of {config.num_steps} is saved in {workdir}; the same"
      " command goes on from there"
    )
    if not parallel.any_process(out_of_time):
      # Where JAX catches SIGTERM, it does not say so.
      caught.append(signal.SIGTERM)
      raise InterruptedRunError(f"{caught[0].name}: {message}")
    logging.info("max_minutes=%g: %s.", config.max_minutes, message)
    return None
  if metrics is None:  # Nothing was left to train.
    metrics = run_evaluation(state.params)
  if parallel.is_first_process():
    pictures = draw(state.params)
    evaluate.report(workdir, config, data, step, metrics, pictures)
  return metrics


def check_config(config: ml_collections.ConfigDict) -> None:
  """Raises a ValueError if a field is missing, unknown, or has a bad value.

  Those of the sections are checked by `tasks.make_task` and `prepare.load`.
  """
  check_fields("config", config, {*_SECTIONS, "task", *_FIELDS})
  check_type("task", config.task, str)
  for name in _SECTIONS:
    check_section(f"config.{name}", config[name])
  for name, (kind, least) in _FIELDS.items():
    check_type(name, config[name], kind)
    if least is not None:
      check_at_least(name, config[name], least)
  for name in ("num_steps", "log_every", "eval_every", "checkpoint_every"):
    if config[name] % config.steps_per_dispatch:
      raise ValueError(
        f"{name}={config[name]} is not a multiple of"
        f" steps_per_dispatch={config.steps_per_dispatch}"
      )
  check_choice("data_placement", config.data_placement, batches.PLACEMENTS)


def _check_processes(config, first_step):
  """Raises a ValueError if processes would not train the same run."""
  fields = config.to_dict()
  for place in ("data_dir", "path"):  # Disks differ.
    del fields["data"][place]
  parallel.check_agreement(
    {
      "config": zlib.crc32(json.dumps(fields, sort_keys=True).encode()) >> 1,
      "number of devices": jax.local_device_count(),
      "newest checkpoint": first_step,
    }
  )


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
  place = "there is no checkpoint yet"
  if newest:
    place = f"the last checkpoint is of step {newest}, in {workdir}"
  return (
    f"the loss or a gradient is not finite at step {step}; {place}. Try a lower"
    " learning_rate, more warmup_steps, or max_grad_norm. The examples of that"
    f" step in the data set: {', '.join(map(str, examples.tolist()))}"
  )


@contextlib.contextmanager
def _catch_signals() -> Iterator[list[signal.Signals]]:
  """Collects SIGTERM and SIGINT, for the loop to end after its step.

  A second SIGINT interrupts at once. Where there are many processes, SIGTERM is
  left to JAX: see `parallel.agree_to_stop`.
  """
  caught = []

  def catch(number, _):
    if caught and number == signal.SIGINT:
      raise KeyboardInterrupt
    caught.append(signal.Signals(number))

  numbers = [signal.SIGINT]
  if jax.process_count() == 1:
    numbers.append(signal.SIGTERM)
  handlers = {number: signal.signal(number, catch) for number in numbers}
  try:
    yield caught
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
