"""One page per experiment: values and a header, no logic."""

import importlib

from ml_collections import ConfigDict


def load(name: str) -> ConfigDict:
  """The config of a file, or of FILE:ARGUMENT as main.py takes it."""
  file, _, argument = name.partition(":")
  get_config = importlib.import_module(f"configs.{file}").get_config
  return get_config(argument) if argument else get_config()
