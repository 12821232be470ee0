"""Tests of the rows of tables and figures."""

import sys

import pytest

from slot_attention import command
from slot_attention.paper import reproduce, rows


def test_without_the_folder_of_the_configs_one_message_says_so(
  monkeypatch, capsys
):
  """As in an installed package outside a clone."""
  monkeypatch.setitem(sys.modules, "configs", None)
  with pytest.raises(ImportError, match="folder configs/ of the repository"):
    rows.load_config("quickstart")
  monkeypatch.setattr(sys, "argv", ["", "--list"])
  monkeypatch.setattr(command.threading, "excepthook", None)
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  with pytest.raises(SystemExit) as end:
    command.run(reproduce.main)
  assert end.value.code == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("error: the configs lie in the folder configs/")
