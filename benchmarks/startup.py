"""Times how long a command takes until its first steps are done.

  python -m benchmarks.startup
  python -m benchmarks.startup --configs=quickstart --output=results/startup

Each start is a new process of main.py, whose data is prepared beforehand. The
clock runs from the start of the process until metrics.jsonl has its first line,
which a run writes after the steps of one dispatch. A cold start finds no
compiled programs; a warm one finds those that the cold one has kept. The starts
of all configs take turns. The imports of main.py are timed as well. With
--output=NAME, the command writes NAME.json.
"""

from collections.abc import Sequence
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks import records
import configs
from slot_attention import command
from slot_attention.data import loading
from slot_attention.paper.rows import changed
from slot_attention.progress import progress_bar

_ROOT = Path(__file__).parents[1]
_STARTS = ("imports", "cold", "warm")


def make_changes(name: str, data_dir: str, batch_size: int | None) -> dict:
  """Returns changes that give a config little data and log its first steps."""
  config = configs.load(name)
  batch_size = batch_size or config.batch_size
  changes = {
    "batch_size": batch_size,
    "log_every": config.steps_per_dispatch,
    "data.source": "procedural",
    "data.data_dir": data_dir,
    "data.num_train": 4 * batch_size,
    "data.num_eval": batch_size,
    # Half of the CLEVR scenes have too many objects for CLEVR6.
    "data.num_examples": 12 * batch_size,
  }
  loading.load(changed(config, changes).data)
  return changes


def time_imports() -> float:
  """Returns the seconds in which a new process imports what main.py imports."""
  start = time.perf_counter()
  subprocess.run([sys.executable, "-c", "import main"], cwd=_ROOT, check=True)
  return time.perf_counter() - start


def time_first_steps(name: str, changes: dict, cache: Path) -> float:
  """Returns the seconds until the steps of the first dispatch are done.

  Raises:
    RuntimeError: if the command ends before.
  """
  with tempfile.TemporaryDirectory() as workdir:
    metrics = Path(workdir, "metrics.jsonl")
    arguments = [f"--config.{field}={new}" for field, new in changes.items()]
    start = time.perf_counter()
    with subprocess.Popen(
      [
        sys.executable, "main.py", f"--config={name}", *arguments,
        f"--workdir={workdir}", f"--compilation_cache={cache}",
      ],
      cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
      while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
          raise RuntimeError(f"main.py ended with exit code {process.poll()}")
        time.sleep(0.02)
      seconds = time.perf_counter() - start
      process.send_signal(signal.SIGKILL)
  return seconds


def measure(
  names: Sequence[str], rounds: int, data_dir: str, batch_sizes: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
  """Returns the seconds of every start of every config, by name."""
  changes = {
    name: make_changes(name, data_dir, batch_size)
    for name, batch_size in zip(names, batch_sizes)
  }
  seconds = {name: {start: [] for start in _STARTS} for name in names}
  with (
    tempfile.TemporaryDirectory() as folder,
    progress_bar(
      total=rounds * len(names) * len(_STARTS), desc="starts", unit="start"
    ) as bar,
  ):
    cache = Path(folder, "cache")
    for _ in range(rounds):
      for name in names:
        shutil.rmtree(cache, ignore_errors=True)
        for start in _STARTS:
          taken = (
            time_imports()
            if start == "imports"
            else time_first_steps(name, changes[name], cache)
          )
          seconds[name][start].append(taken)
          bar.update()
  return seconds


def parse_flags(arguments: Sequence[str]) -> command.Flags:
  flags = command.Flags(__doc__)
  flags.define_string(
    "configs", "quickstart,clevr6_object_discovery", "Names of configs."
  )
  flags.define_integers(
    "batch_sizes", [0, 4], "Batch size of each config; 0 for its own."
  )
  flags.define_integer("rounds", 3, "Starts of each kind.", minimum=1)
  records.define_data_dir(flags)
  records.define_output(flags)
  flags.parse(arguments)
  if len(flags.configs.split(",")) != len(flags.batch_sizes):
    raise command.UsageError("--batch_sizes needs one number for each config")
  return flags


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = parse_flags(arguments)
  names = flags.configs.split(",")
  data_dir = str(Path(flags.data_dir).absolute())
  seconds = measure(names, flags.rounds, data_dir, flags.batch_sizes)
  for name, starts in seconds.items():
    print(name)
    for start, values in starts.items():
      print(f"  {start:<8} {min(values):6.1f} to {max(values):.1f} s")
  record = records.describe(
    "benchmarks.startup",
    batch_sizes=dict(zip(names, flags.batch_sizes)),
    seconds=seconds,
  )
  records.write(flags.output, record)


if __name__ == "__main__":
  command.run(main)
