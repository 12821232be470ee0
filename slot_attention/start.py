"""What the package does first when one of its commands starts."""

import os
from pathlib import Path
import sys

_ROOT = Path(__file__).parents[1]
_HUGE_PAGES_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# glibc's malloc, from version 2.35 on, reads this when a process starts.
HUGE_PAGES_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def check_started_module() -> None:
  """Ends the process if `python -m` started a module that is not a command.

  Python would run such a module, which does nothing, and report success.
  """
  if not _is_module():
    return
  started = {argument.removeprefix("-m") for argument in sys.orig_argv}
  commands, others = [], set()
  for file in sorted(_ROOT.glob("slot_attention/**/*.py")):
    name = ".".join(file.relative_to(_ROOT).with_suffix("").parts)
    # Every command, and nothing else, ends with this line.
    if "\n  command.run(main)\n" in file.read_text(encoding="utf-8"):
      commands.append(name.removesuffix(".__main__"))
    else:
      others.add(name)
  for name in started & others:
    print(
      f"error: {name} is not a command; the commands are {', '.join(commands)}",
      file=sys.stderr,
    )
    sys.exit(2)


def use_huge_pages() -> None:
  """Makes a command use huge pages where Linux provides them on request.

  XLA allocates the memory of a step anew in each call. Linux provides memory,
  filled with zeros, in pages of 4 kB, or of 2 MB if malloc requests them.
  docs/speed.md says how much time the large pages save on a CPU. malloc
  requests them only if `GLIBC_TUNABLES` says so when the process starts, so
  this function restarts the process with the same process id and arguments. It
  does nothing if the user has set that variable, or if another program imports
  this package.
  """
  if (
    (_is_module() or _is_main_script())
    and "GLIBC_TUNABLES" not in os.environ
    and _HUGE_PAGES_SETTING.exists()
    and "[madvise]" in _HUGE_PAGES_SETTING.read_text()
  ):
    os.execve(
      sys.executable,
      [sys.executable, *sys.orig_argv[1:]],
      {**os.environ, **HUGE_PAGES_ENVIRONMENT},
    )


def _is_module():
  """Returns whether `python -m` is starting a module of this package.

  Python imports the packages of the module first, and then changes sys.argv.
  """
  if sys.argv[:1] != ["-m"]:
    return False
  # The module stands before the arguments of the program.
  before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
  return before[-1].removeprefix("-m").partition(".")[0] == "slot_attention"


def _is_main_script():
  """Returns whether the command line of this process runs main.py.

  `python -m pdb main.py` does not: the debugger runs it.
  """
  before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv)]
  as_given = sys.argv == sys.orig_argv[-len(sys.argv) :]
  return (
    as_given
    and not any(option.startswith("-m") for option in before)
    and Path(sys.argv[0]).resolve() == _ROOT / "main.py"
  )
