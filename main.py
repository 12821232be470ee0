"""Trains or evaluates a model, as `python -m slot_attention` does.

  python main.py --config=configs/quickstart.py

`python main.py --help` lists the modes and the flags.
"""

from slot_attention import command
from slot_attention.__main__ import main

if __name__ == "__main__":
  command.run(main)
