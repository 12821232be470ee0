"""Trains or evaluates a model.

python main.py --config=configs/quickstart.py
"""

import logging as std_logging
import os
from pathlib import Path
import sys
import threading
import traceback

from absl import app, flags, logging
import jax
from ml_collections import config_flags

import slot_attention
from slot_attention import parallel
from slot_attention.training import checkpoints, evaluate, train

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment, a file in configs/."
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder of the run: config, checkpoints, metrics, pictures. A run goes on"
  " from its newest checkpoint. Default: runs/<config name>.",
)
_MODE = flags.DEFINE_enum(
  "mode",
  "train",
  ["train", "eval", "sweep"],
  "Train, and evaluate at the end; or evaluate the newest checkpoint; or"
  " evaluate it with other numbers of iterations and slots.",
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
  "coordinator_address",
  None,
  "HOST:PORT of process 0, for many processes where JAX detects no cluster.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes",
  None,
  "How many processes train together; 1: do not look for a cluster.",
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Which of the processes this is, from 0."
)

# Exit codes: 75 is EX_TEMPFAIL of sysexits.h, "try again".
_FAILED, _BAD_USAGE, _INTERRUPTED = 1, 2, 75


def main(argv: list[str]) -> None:
  logging.get_absl_handler().addFilter(_without_chatter)
  # What fails in a thread of Orbax is raised again where it is waited for.
  threading.excepthook = sys.unraisablehook = _log_error_elsewhere
  if len(argv) > 1:
    _fail(f"arguments without a flag: {' '.join(argv[1:])}", _BAD_USAGE)
  try:
    _run()
  except train.InterruptedRunError as error:
    _fail(str(error), _INTERRUPTED)
  except (
    ValueError, OSError, ImportError, FloatingPointError, RuntimeError
  ) as error:  # fmt: skip
    if logging.level_debug():
      traceback.print_exc()
    # After a RuntimeError of JAX, when a device or another process failed, an
    # orderly end would wait for minutes for the others.
    leave = os._exit if isinstance(error, RuntimeError) else sys.exit
    _fail(f"{error} (--verbosity=1 shows where)", _FAILED, leave)


def _log_error_elsewhere(error):
  logging.debug("In another thread:", exc_info=error[:3])


def _without_chatter(record):
  """JAX and Orbax log a page of information about each of their steps.

  Orbax also logs, in many pages, the errors that it raises.
  """
  path = Path(record.pathname)
  own = Path(slot_attention.__file__).parent in path.parents
  again = {"orbax", "asyncio"} & set(path.parts)
  least = std_logging.CRITICAL if again else std_logging.WARNING
  return own or logging.level_debug() or record.levelno >= least


def _run():
  if _CONFIG.value is None and _WORKDIR.value is None:
    raise ValueError("--config or --workdir must be given")
  if _WORKDIR.value is not None:
    workdir = Path(_WORKDIR.value)
  else:
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    workdir = Path("runs") / _config_name(path)
  config = _CONFIG.value
  if config is None:
    config = checkpoints.load_config(workdir)
  train.check_config(config)
  # Both only have an effect before the first use of a device.
  jax.config.update("jax_num_cpu_devices", config.num_cpu_devices)
  parallel.join_cluster(
    _COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  )
  if not parallel.is_first_process():
    logging.set_verbosity(logging.WARNING)
  modes = {
    "train": lambda: train.train(config, workdir),
    "eval": lambda: evaluate.evaluate_run(workdir, config),
    "sweep": lambda: evaluate.sweep_run(workdir, config),
  }
  modes[_MODE.value]()


def _config_name(path):
  """configs/quickstart.py is quickstart, configs/smoke.py:x is smoke_x."""
  path, _, argument = path.partition(":")
  return "_".join(filter(None, [Path(path).stem, argument]))


def _parse_flags(argv):
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(str(error), _BAD_USAGE)
  except (AttributeError, KeyError) as error:
    name = str(error).strip("'\"")
    overrides = [x for x in argv if x.startswith("--config.") and name in x]
    _fail(f"the config has no field {name}: {overrides}", _BAD_USAGE)
  except (ImportError, OSError, TypeError, ValueError) as error:
    _fail(f"the config cannot be read: {error}", _BAD_USAGE)


def _fail(message, code, leave=sys.exit):
  print("error:", " ".join(message.split()), file=sys.stderr, flush=True)
  leave(code)


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
