"""What all commands share: flags, help, errors and exit codes.

A command is a function of its arguments:

  def main(arguments):
    flags = command.Flags(__doc__)
    flags.define_string("to", "predictions", "Folder to write to.")
    images = flags.parse(arguments)
    ...

  if __name__ == "__main__":
    command.run(main)

Every command has --help, which prints the top of its file and every flag, and
--verbosity=1, which shows where an error happened. Exit codes:

   0  The command did what it was asked for.
   1  An error ended it; the last line of standard error says which.
   2  The command line is wrong; the last line says how.
  75  A signal ended it; what was done is kept, and the same command goes on.
"""

from collections.abc import Callable, Sequence
import importlib.util
import io
import logging as std_logging
import os
from pathlib import Path
import re
import signal
import sys
import textwrap
import threading
import traceback
import types

from absl import flags, logging
import jax
from ml_collections import config_flags

import slot_attention
from slot_attention import cache
from slot_attention.checks import nearest

_FAILED, _BAD_USAGE = 1, 2
_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: "try again".
_CONFIG_FLAGS = ("--config", "-config")

# The configs are beside this package in a clone, and inside of it where it is
# installed (see pyproject.toml).
_CLONE = Path(__file__).parents[1] / "configs"
_INSTALLED = Path(__file__).parent / "configs"
_CONFIGS = _CLONE if (_CLONE / "quickstart.py").exists() else _INSTALLED


class UsageError(ValueError):
  """The command line is wrong."""


class Flags(flags.FlagValues):
  """The flags of one command, separate from those of other commands."""

  def __init__(self, doc: str, arguments: str = ""):
    """Defines the flags that every command has.

    Args:
      doc: the docstring of the command's file, which --help prints first.
      arguments: the arguments that are no flags, for example "IMAGE..."; "" if
        the command takes none.
    """
    super().__init__()
    # FlagValues takes every plain attribute for a flag.
    self.__dict__.update(_doc=doc, _arguments=arguments)
    self.define_bool("help", False, "Print this help and end.")
    self.define_integer(
      "verbosity",
      0,
      "How much to log: -1 warnings, 0 also progress, 1 also where an error"
      " happened.",
    )
    self.define_string(
      "compilation_cache",
      cache.default_folder(),
      "Folder in which JAX keeps compiled programs for the next time; processes"
      " may share it. Empty: they are not kept.",
    )

  def define_string(self, name: str, default: str | None, text: str) -> None:
    """Defines --name=TEXT; a ~ at its start stands for the home directory."""
    flags.DEFINE(_TextParser(), name, default, text, flag_values=self)

  def define_bool(self, name: str, default: bool, text: str) -> None:
    """Defines --name and --noname."""
    flags.DEFINE_bool(name, default, text, flag_values=self)

  def define_integer(
    self, name: str, default: int | None, text: str, minimum: int | None = None
  ) -> None:
    """Defines --name=NUMBER, which is at least `minimum`."""
    flags.DEFINE_integer(
      name, default, text, lower_bound=minimum, flag_values=self
    )

  def define_integers(
    self, name: str, default: Sequence[int] | None, text: str
  ) -> None:
    """Defines --name=NUMBER,NUMBER,..."""
    flags.DEFINE(_IntegersParser(), name, default, text, flag_values=self)

  def define_choice(
    self, name: str, default: str | None, choices: Sequence[str], text: str
  ) -> None:
    """Defines --name=CHOICE."""
    flags.DEFINE_enum(name, default, choices, text, flag_values=self)

  def define_config(self, arguments: Sequence[str], text: str) -> None:
    """Defines --config=NAME and a flag for every field of that config.

    Args:
      arguments: of the command; they say which fields are changed.
      text: the help.
    """
    config_flags.DEFINE_config_file(
      "config",
      None,
      f"{text} A file, or the name of one in configs/; --config.FIELD=VALUE"
      " changes one of its fields.",
      flag_values=self,
      sys_argv=["", *_with_config_file(arguments)],
    )

  @property
  def config_name(self) -> str:
    """Returns the short name of --config.

    configs/quickstart.py is quickstart, configs/smoke.py:x is smoke_x.
    """
    path = config_flags.get_config_filename(self["config"])
    path, _, argument = path.partition(":")
    return "_".join(filter(None, [Path(path).stem, argument]))

  def define_run(self, *, is_needed: bool = True) -> None:
    """Defines --workdir and --pretrained, which exclude each other.

    Args:
      is_needed: whether the command needs one of them.
    """
    self.__dict__["_needs_run"] = is_needed
    self.define_string("workdir", None, "Folder of a run.")
    self.define_string(
      "pretrained", None, "Name of weights that come with the package."
    )

  def define_slots_and_iterations(self) -> None:
    """Defines --num_slots and --num_iterations."""
    self.define_integer("num_slots", None, "K; default: the run's.", minimum=1)
    self.define_integer(
      "num_iterations", None, "T; default: the run's.", minimum=1
    )

  def parse(self, arguments: Sequence[str]) -> list[str]:
    """Reads the arguments of a command into its flags.

    Returns:
      The arguments that are no flags.

    Raises:
      UsageError: for an unknown flag or a bad value; and for arguments that are
        no flags if the command takes none.
      SystemExit: after --help.
    """
    try:
      _, *rest = self(["", *_with_config_file(arguments)])
    except flags.Error as error:
      # ml_collections gives the whole traceback of an error in a config.
      *_, last_line = str(error).strip().splitlines()
      raise UsageError(last_line) from error
    except (AttributeError, KeyError) as error:
      raise UsageError(_unknown_field(arguments, str(error))) from error
    except Exception as error:  # Whatever the code of a config raises.
      raise UsageError(f"the config cannot be read: {error}") from error
    if self.help:
      print(self._describe())
      sys.exit()
    logging.set_verbosity(self.verbosity)
    cache.keep(self.compilation_cache)
    if rest and not self.__dict__["_arguments"]:
      raise UsageError(f"arguments without a flag: {' '.join(rest)}")
    self._check_run()
    return rest

  def _check_run(self):
    if "_needs_run" not in self.__dict__:
      return
    given = bool(self.workdir) + bool(self.pretrained)
    if given > 1 or (self.__dict__["_needs_run"] and not given):
      raise UsageError("give either --workdir or --pretrained")

  def _describe(self):
    lines = [self.__dict__["_doc"].strip(), "", "Flags:"]
    for name in sorted(self):
      flag = self[name]
      default = (
        "" if flag.default in (None, "") else f" Default: {flag.default}."
      )
      text = textwrap.fill(
        f"{flag.help.replace('|', ' | ')}{default}",
        80,
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
      )
      lines += [f"  --{name}", text]
    return "\n".join(lines)


class _TextParser(flags.ArgumentParser):
  """Parses a text; a shell does not expand the ~ of --to=~/folder."""

  def parse(self, argument):
    return os.path.expanduser(argument)

  def flag_type(self):
    return "string"


class _IntegersParser(flags.ArgumentParser):
  """Parses NUMBER,NUMBER,... as a list."""

  def parse(self, argument):
    if isinstance(argument, str):
      argument = argument.split(",")
    try:
      return [int(number) for number in argument]
    except ValueError:
      raise ValueError("must be numbers with commas, as in 0,1,2") from None

  def flag_type(self):
    return "comma separated integers"


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs a command on this process' arguments and ends with its exit code."""
  # absl.logging reads absl's own flags, which are not used here.
  flags.FLAGS.mark_as_parsed()
  logging.use_absl_handler()
  logging.get_absl_handler().addFilter(_is_worth_reading)
  # Orbax raises the errors of its threads again where it waits for them.
  threading.excepthook = sys.unraisablehook = _handle_error_elsewhere
  # Training, and JAX in a cluster, catch SIGTERM by themselves.
  signal.signal(signal.SIGTERM, _interrupt)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # Names of files need not be UTF-8, and may be printed.
    sys.stdout.reconfigure(errors="backslashreplace")
  try:
    _check_package()
    try:
      main(sys.argv[1:])
    finally:
      sys.stdout.flush()
  except BrokenPipeError:  # The reader of the output, such as head, has ended.
    # Python flushes the standard output once more when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_FAILED)
  except UsageError as error:
    _fail(str(error), _BAD_USAGE)
  except KeyboardInterrupt as error:
    _fail(str(error) or "interrupted; the same command goes on", _INTERRUPTED)
  except (
    ValueError, OSError, ImportError, ArithmeticError, RuntimeError
  ) as error:  # fmt: skip
    if logging.level_debug():
      traceback.print_exc()
    # After a RuntimeError of JAX, when a device or another process failed, an
    # orderly end would wait for the others for minutes.
    leave = os._exit if isinstance(error, RuntimeError) else sys.exit
    _fail(f"{error} (--verbosity=1 shows where)", _FAILED, leave)
  except Exception:  # A mistake in the code.
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    os._exit(_FAILED)  # Or the other processes would wait for this one.


def import_configs() -> types.ModuleType:
  """Imports the package of the configs, wherever the command is started.

  The configs import each other from `configs`.
  """
  if "configs" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
      "configs", _CONFIGS / "__init__.py"
    )
    sys.modules["configs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["configs"])
  return sys.modules["configs"]


def _check_package():
  """Raises an ImportError if another package has overwritten this one.

  The package slot-attention on PyPI has the same import name.
  """
  if not hasattr(slot_attention, "ObjectDiscovery"):
    raise ImportError(
      "the package slot-attention of PyPI, which is another project, has"
      f" overwritten {slot_attention.__file__}: pip uninstall slot-attention,"
      " and install this project again"
    )


def _with_config_file(arguments):
  """Returns the arguments with the file of a config instead of its name."""
  result = []
  for i, argument in enumerate(arguments):
    flag, is_joined, name = argument.partition("=")
    if flag in _CONFIG_FLAGS and is_joined:
      argument = f"{flag}={_config_file(name)}"
    elif i and arguments[i - 1] in _CONFIG_FLAGS:
      argument = _config_file(argument)
    result.append(argument)
  return result


def _config_file(name):
  """Returns the file of a config, given as a file or as a name.

  A name may end in .py. All may be followed by :ARGUMENT, as in
  smoke:quickstart.
  """
  import_configs()  # For the configs that import others.
  file, colon, argument = name.partition(":")
  if Path(file).is_file():
    return name
  files = {
    path.stem: path
    for folder in (_CONFIGS, Path("configs"))
    for path in folder.glob("[!_]*.py")
  }
  stem = file.removesuffix(".py")
  if stem not in files:
    hint = nearest(Path(file).stem, files) or f" ({', '.join(sorted(files))})"
    raise UsageError(f"there is no config {file}{hint}")
  return f"{files[stem]}{colon}{argument}"


def _unknown_field(arguments, error):
  """Explains an AttributeError or KeyError of ml_collections."""
  # The first pattern is of a field below one that is no section.
  below = re.findall(r"to lookup: ([\w.]+)", error)
  (name, *_) = below or re.findall(r"\w+", error) or [error]
  similar = re.search(r'Did you mean "(\w+)"', error)
  given = [
    argument
    for argument in arguments
    if argument.startswith("--config.") and re.search(rf"\b{name}\b", argument)
  ]
  return f"the config has no field {name}: {' '.join(given)}" + (
    f" (did you mean {similar[1]}?)" if similar else ""
  )


def _interrupt(number, _):
  name = signal.Signals(number).name
  raise KeyboardInterrupt(f"{name}: the same command goes on")


def _handle_error_elsewhere(error):
  """Handles an error of a thread, a destructor or a callback."""
  logging.debug("Elsewhere:", exc_info=error[:3])
  if error.exc_type is KeyboardInterrupt:
    # Python ignores errors in destructors and callbacks, where the signal came,
    # so it is sent again a little later. Only SIGTERM has a message.
    number = signal.SIGTERM if str(error.exc_value) else signal.SIGINT
    threading.Timer(0.1, os.kill, (os.getpid(), number)).start()


def _is_worth_reading(record):
  """Returns whether a log record is of this project, or at least a warning.

  JAX and Orbax log a page of information about each of their steps. Orbax also
  logs, in many pages, the errors that it raises.
  """
  path = Path(record.pathname)
  own = Path(__file__).parent in path.parents
  raised_again = {"orbax", "asyncio"} & set(path.parts)
  least = std_logging.CRITICAL if raised_again else std_logging.WARNING
  return own or logging.level_debug() or record.levelno >= least


def _fail(message, code, leave=sys.exit):
  print("error:", " ".join(message.split()), file=sys.stderr, flush=True)
  leave(code)
