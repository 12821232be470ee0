"""Trains or evaluates a model.

  python main.py --config=configs/quickstart.py     in a clone
  python -m slot_attention --config=quickstart      anywhere else

A run lives in its --workdir. The same command goes on from the newest
checkpoint there. --workdir=FOLDER alone takes the config from that folder.

This command compiles the train step for TPUs on a machine without TPUs, and
prints the memory and the time that training needs:

  python main.py --config=quickstart --mode=compile --topology=v5e:2x2
"""

from collections.abc import Sequence
from pathlib import Path

from absl import logging
import jax

from slot_attention import command, parallel, validation
from slot_attention.training import (
  chips,
  compilation,
  evaluate,
  runs,
  sweep,
  train,
)

_MODES = {
  "train": train.train,
  "eval": evaluate.evaluate_run,
  "sweep": sweep.sweep_run,
}


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__)
  flags.define_config(arguments, "The experiment.")
  flags.define_string(
    "workdir",
    None,
    "Folder of the run: its config, checkpoints, metrics and pictures. Default:"
    " runs/<name of the config>.",
  )
  flags.define_choice(
    "mode",
    "train",
    [*_MODES, "compile"],
    "train, and evaluate at the end; eval, which evaluates the newest"
    " checkpoint; sweep, which evaluates it with other numbers of iterations"
    " and slots; or compile, which says what training needs of --topology.",
  )
  flags.define_choice(
    "topology",
    None,
    chips.TOPOLOGIES,
    "The TPUs for which --mode=compile compiles: their kind, and how many stand"
    " along each axis. This machine needs none.",
  )
  flags.define_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, for many processes where JAX detects no cluster.",
  )
  flags.define_integer(
    "num_processes",
    None,
    "Number of processes that train together; 1 turns cluster detection off.",
    minimum=1,
  )
  flags.define_integer(
    "process_id", None, "Which of the processes this is, from 0.", minimum=0
  )
  flags.parse(arguments)

  if flags.workdir == "":
    raise command.UsageError("--workdir is empty: it must name a folder")
  if flags.config is None and flags.workdir is None:
    raise command.UsageError("give --config or --workdir")
  if flags.topology and flags.mode != "compile":
    raise command.UsageError("--topology is for --mode=compile")
  workdir = Path(flags.workdir or f"runs/{flags.config_name}")
  config = flags.config
  if config is None:
    config = runs.load_config(workdir)
  config = validation.checked(config)
  if flags.mode == "compile":
    if not flags.topology:
      raise command.UsageError("--mode=compile needs --topology")
    compilation.describe(config, flags.topology)
    return
  # Both only have an effect before the first use of a device.
  jax.config.update("jax_num_cpu_devices", config.num_cpu_devices)
  parallel.join_cluster(
    flags.coordinator_address, flags.num_processes, flags.process_id
  )
  if not parallel.is_first_process():
    logging.set_verbosity(logging.WARNING)
  _MODES[flags.mode](config, workdir)


if __name__ == "__main__":
  command.run(main)
