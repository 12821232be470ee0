"""Tests of what the package does first."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from slot_attention import start

ROOT = Path(__file__).parents[1]
MAIN = str(ROOT / "main.py")


@pytest.mark.parametrize(
  ("arguments", "given", "pages", "restarts"),
  [
    ([MAIN, "--mode=eval"], ["python", MAIN, "--mode=eval"], "madvise", True),
    (
      ["-m", "--help"],
      ["python", "-m", "slot_attention.predict", "--help"],
      "madvise",
      True,
    ),
    (["-m"], ["python", "-X", "dev", "-mslot_attention"], "madvise", True),
    # A debugger that runs main.py starts again by itself.
    ([MAIN], ["python", "-m", "pdb", MAIN], "madvise", False),
    # A package of the user imports this one.
    (["-m", "--x"], ["python", "-m", "mine.slots", "--x"], "madvise", False),
    # All processes have huge pages, or none.
    ([MAIN], ["python", MAIN], "always", False),
    ([MAIN], ["python", MAIN], "never", False),
    # A notebook runs main.py, or another program imports the package.
    ([MAIN], ["python", "-m", "ipykernel_launcher"], "madvise", False),
    (["train.py"], ["python", "train.py"], "madvise", False),
    ([""], ["python"], "madvise", False),
  ],
)
def test_commands_start_again_with_huge_pages(
  monkeypatch, tmp_path, arguments, given, pages, restarts
):
  calls = []
  setting = tmp_path / "enabled"
  choices = ("always", "madvise", "never")
  setting.write_text(
    " ".join(f"[{x}]" if x == pages else x for x in choices) + "\n"
  )
  monkeypatch.setattr(start, "_HUGE_PAGES_SETTING", setting)
  monkeypatch.setattr(sys, "argv", arguments)
  monkeypatch.setattr(sys, "orig_argv", given)
  monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
  monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
  start.use_huge_pages()
  assert len(calls) == restarts
  for program, new_arguments, environment in calls:
    assert program == sys.executable
    assert new_arguments == [sys.executable, *given[1:]]
    assert environment == {**os.environ, **start.HUGE_PAGES_ENVIRONMENT}
  monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
  start.use_huge_pages()
  monkeypatch.delenv("GLIBC_TUNABLES")
  monkeypatch.setattr(start, "_HUGE_PAGES_SETTING", tmp_path / "no Linux")
  start.use_huge_pages()
  assert len(calls) == restarts


@pytest.mark.parametrize("command", [[MAIN], ["-m", "slot_attention"]])
def test_the_process_keeps_its_number_and_arguments(tmp_path, command):
  (tmp_path / "sitecustomize.py").write_text(
    "import os\n"
    f"with open({str(tmp_path / 'starts')!r}, 'a') as file:\n"
    "  print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), file=file)\n"
  )
  environment = {
    name: x for name, x in os.environ.items() if name != "GLIBC_TUNABLES"
  }
  path = f"{tmp_path}{os.pathsep}{ROOT}"
  done = subprocess.run(
    [sys.executable, *command, "--config=no_such_config"],
    env={**environment, "PYTHONPATH": path},
    capture_output=True,
    text=True,
    check=False,
  )
  assert "there is no config no_such_config" in done.stderr
  starts = (tmp_path / "starts").read_text().splitlines()
  number, tunables = starts[0].split()
  assert tunables == "None"
  setting = start._HUGE_PAGES_SETTING
  if setting.exists() and "[madvise]" in setting.read_text():
    assert starts[1:] == [
      f"{number} {start.HUGE_PAGES_ENVIRONMENT['GLIBC_TUNABLES']}"
    ]
  else:
    assert len(starts) == 1
