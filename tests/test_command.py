"""Tests of what all commands have in common."""

import importlib
import os
from pathlib import Path
import subprocess
import sys
import textwrap

import jax
import pytest

import slot_attention
from slot_attention import cache, command

ROOT = Path(__file__).parents[1]
COMMANDS = (
  "slot_attention.__main__",
  "slot_attention.convert",
  "slot_attention.data.prepare",
  "slot_attention.explore.__main__",
  "slot_attention.paper.figures",
  "slot_attention.paper.reproduce",
  "slot_attention.predict",
  "slot_attention.pretrained",
  "benchmarks.clevr_renderer",
  "benchmarks.convolutions",
  "benchmarks.costs",
  "benchmarks.feeding",
  "benchmarks.matching",
  "benchmarks.profile",
  "benchmarks.rivals",
  "benchmarks.scaling",
  "benchmarks.startup",
  "benchmarks.steps",
  "benchmarks.tpu",
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints_what_a_command_does_and_each_flag(name, capsys):
  module = importlib.import_module(name)
  with pytest.raises(SystemExit) as end:
    module.main(["--help"])
  assert end.value.code in (None, 0)
  text = capsys.readouterr().out
  assert text.startswith(module.__doc__.strip())
  listed = text.partition("\nFlags:\n")[2]
  flags = [line for line in listed.splitlines() if line.startswith("  --")]
  helps = [line for line in listed.splitlines() if line.startswith("      ")]
  assert len(flags) > 2 and len(helps) >= len(flags)
  assert all(len(line) <= 80 for line in listed.splitlines())


def test_a_module_without_a_command_says_so():
  started = subprocess.run(
    [sys.executable, "-m", "slot_attention.training.train"],
    capture_output=True, text=True, cwd=ROOT,
  )  # fmt: skip
  assert started.returncode == 2 and not started.stdout
  (line,) = started.stderr.splitlines()
  assert line.startswith(
    "error: slot_attention.training.train is not a command"
  )
  modules = [x for x in COMMANDS if not x.startswith("benchmarks")]
  assert line.endswith(", ".join(modules).replace(".__main__", ""))


def test_a_command_ends_quietly_when_its_reader_has_ended():
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, "-m", "slot_attention.pretrained", "--help"],
    stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    env={**os.environ, "PYTHONUNBUFFERED": ""},
  )  # fmt: skip
  os.close(writer)
  assert (done.returncode, done.stderr) == (1, "")


@pytest.fixture(autouse=True)
def _kept_process(monkeypatch):
  """Undoes what `command.run` changes in the process of the tests."""
  monkeypatch.setattr(sys, "argv", [""])
  monkeypatch.setattr(command.os, "_exit", sys.exit)
  excepthook = command.threading.excepthook
  monkeypatch.setattr(command.threading, "excepthook", excepthook)
  monkeypatch.setattr(command.signal, "signal", lambda *_: None)
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def run(main, monkeypatch, capsys, *arguments):
  """Runs a command; returns exit code and last line of standard error."""
  monkeypatch.setattr(sys, "argv", ["", *arguments])
  with pytest.raises(SystemExit) as end:
    command.run(main)
  return end.value.code, capsys.readouterr().err.splitlines()[-1]


def test_compiled_programs_are_kept_and_damaged_ones_are_made_again(tmp_path):
  program = """
import sys
import textwrap
from slot_attention import command
import jax
flags = command.Flags("Doc.")
flags.parse([f"--compilation_cache={sys.argv[1]}"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x + 1)(1.5))
"""
  environment = {k: v for k, v in os.environ.items() if "CACHE" not in k}

  def compile_with(cache):
    done = subprocess.run(
      [sys.executable, "-c", program, str(cache)],
      capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "2.5\n"), done.stderr
    return done.stderr

  cache = tmp_path / "new" / "cache"
  assert "persistent" not in compile_with(cache)
  programs = {path: path.read_bytes() for path in cache.glob("*-cache")}
  assert programs
  assert "persistent" not in compile_with(cache)
  assert programs == {path: path.read_bytes() for path in cache.glob("*-cache")}
  for path, program_bytes in programs.items():
    path.write_bytes(program_bytes[:-20])
  assert "Error reading persistent compilation cache" in compile_with(cache)
  (tmp_path / "file").touch()
  assert "not kept" in compile_with(tmp_path / "file" / "cache")
  compile_with("")
  environment["XLA_FLAGS"] = "--xla_cpu_experimental_onednn_custom_call=true"
  assert "not kept" in compile_with(tmp_path / "unused")
  assert not (tmp_path / "unused").exists()


def test_each_kind_of_cpu_has_its_own_cache(monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
  here = cache.default_folder()
  assert here.startswith("/somewhere/slot_attention/compiled-")
  monkeypatch.setattr(cache.platform, "machine", lambda: "another")
  assert cache.default_folder() != here


def test_a_user_without_a_home_has_no_cache(monkeypatch):
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.setattr(cache.os.path, "expanduser", lambda path: path)
  assert cache.default_folder() == ""


@pytest.mark.parametrize(
  "error, code, words",
  [
    (ValueError("no\nway"), 1, "error: no way (--verbosity=1 shows where)"),
    (OSError("disk full"), 1, "error: disk full (--verbosity=1 shows where)"),
    (FloatingPointError("NaN"), 1, "error: NaN (--verbosity=1 shows where)"),
    (jax.errors.JaxRuntimeError("lost"), 1, "error: lost (--verbosity=1"),
    (command.UsageError("what?"), 2, "error: what?"),
    (KeyboardInterrupt(), 75, "error: interrupted; the same command goes on"),
  ],
)
def test_an_error_is_one_line_and_an_exit_code(
  error, code, words, monkeypatch, capsys
):
  def main(arguments):
    assert arguments == ["--a=1"]
    raise error

  ended = run(main, monkeypatch, capsys, "--a=1")
  assert ended[0] == code and ended[1].startswith(words)


def test_the_package_of_the_same_name_on_pypi_is_noticed(monkeypatch, capsys):
  monkeypatch.delattr(slot_attention, "ObjectDiscovery")
  ended = run(lambda _: None, monkeypatch, capsys)
  assert ended[0] == 1
  assert "slot-attention of PyPI, which is another project, has" in ended[1]
  assert "pip uninstall slot-attention" in ended[1]


def test_an_error_of_the_code_itself_keeps_its_traceback():
  def main(_):
    raise KeyError("a mistake in this project")

  with pytest.raises(KeyError):
    command.run(main)


def parse(*arguments):
  flags = command.Flags("A command.")
  flags.define_config(arguments, "The experiment.")
  flags.define_integers("seeds", None, "Of each run.")
  flags.parse(arguments)
  return flags


@pytest.mark.parametrize(
  "name",
  ["smoke:quickstart", "smoke.py:quickstart", "configs/smoke.py:quickstart"],
)
def test_a_config_is_given_as_a_name_or_as_a_file(name):
  for arguments in (
    [f"--config={name}"],
    ["--config", name],
    [f"-config={name}"],
  ):
    flags = parse(*arguments, "--config.num_steps=7", "--seeds=3,1")
    assert flags.config.num_steps == 7
    assert flags.config.data.name == "tetrominoes"
    assert flags.config_name == "smoke_quickstart"
    assert flags.seeds == [3, 1]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_during_a_destructor_is_not_lost(name):
  program = textwrap.dedent(f"""
    import os, signal, time
    from slot_attention import command

    class Thing:
      def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.1)

    def main(arguments):
      Thing()
      time.sleep(30)

    command.run(main)
  """)
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=False
  )
  assert done.returncode == 75, done.stderr
  assert done.stderr.splitlines()[-1].endswith("the same command goes on")


def test_configs_are_found_without_the_clone_as_the_current_folder(
  tmp_path, monkeypatch
):
  """Also where the folder has a package of the same name."""
  for name in [x for x in sys.modules if x.partition(".")[0] == "configs"]:
    monkeypatch.delitem(sys.modules, name)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "mine.py").write_text(
    "from configs import smoke\n"
    "def get_config():\n"
    "  return smoke.get_config('slot_mlp:quickstart')\n"
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    sys, "path", ["", *[x for x in sys.path if x != str(ROOT)]]
  )
  flags = command.Flags("Doc.")
  arguments = ["--config=mine"]
  flags.define_config(arguments, "The config.")
  flags.parse(arguments)
  assert "slot_mlp" in flags.config.model
  assert command.import_configs().__file__ == str(ROOT / "configs/__init__.py")


def test_a_run_or_weights_exclude_each_other_and_may_be_left_out():
  for is_needed, arguments, is_right in (
    (True, [], False),
    (True, ["--workdir=a"], True),
    (False, [], True),
    (False, ["--pretrained=b"], True),
    (False, ["--workdir=a", "--pretrained=b"], False),
  ):
    flags = command.Flags("A command.")
    flags.define_run(is_needed=is_needed)
    if is_right:
      assert flags.parse(arguments) == []
    else:
      with pytest.raises(command.UsageError, match="give either --workdir or"):
        flags.parse(arguments)


def test_a_folder_may_lie_in_the_home_directory(monkeypatch):
  monkeypatch.setenv("HOME", "/home/x")
  assert parse("--compilation_cache=~/a").compilation_cache == "/home/x/a"
  assert parse("--compilation_cache=a~").compilation_cache == "a~"


def test_flags_of_two_commands_are_independent():
  assert parse("--config=quickstart").config.batch_size == 16
  assert parse().config is None


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["--config=quickstrat"], r"config quickstrat \(did you mean quickstart"),
    (["--config=configs/nothing.py"], "there is no config configs/nothing.py"),
    (["--config=smoke:nothing"], "cannot be read: there is no config nothing"),
    (
      ["--config=mesh:nem"],
      "the model of nem has no Slot Attention to replace",
    ),
    (["--config=slot_mlp:savi"], "the Slot MLP has no sizes for task='video_"),
    (
      ["--config=quickstart", "--config.model.encoder.feature=(1,)"],
      "no field feature: --config.model.encoder.feature=.* mean features",
    ),
    (["--config=quickstart", "--config.a.b=1"], "no field a: --config.a.b=1"),
    (["--config=quickstart", "--config.num_steps=x"], "num_steps=x: invalid"),
    (["--seed=1"], "Unknown command line flag 'seed'. Did you mean: seeds"),
    (["--seeds=1;2"], "--seeds=1;2: must be numbers with commas"),
    (["--verbosity=loud"], "verbosity=loud"),
    (["what"], "arguments without a flag: what"),
  ],
)
def test_a_wrong_command_line_is_explained_in_one_line(arguments, words):
  with pytest.raises(command.UsageError, match=words) as error:
    parse(*arguments)
  assert "\n" not in str(error.value).strip()


def test_a_config_that_cannot_be_executed_is_explained(tmp_path):
  for text, words in (
    ("def get_config(:", r"invalid syntax \(a.py, line 1\)"),
    ("def get_config(): return 3 / 0", "division by zero"),
    ("import nothing_like_this", "No module named 'nothing_like_this'"),
    ("def get_config(): raise ValueError('too small')", "too small"),
  ):
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(command.UsageError, match=words) as error:
      parse(f"--config={tmp_path / 'a.py'}")
    assert "Traceback" not in str(error.value)
