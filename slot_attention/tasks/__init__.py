"""Tasks: each has a model, a loss, metrics and pictures.

Only this folder knows them all. A new task, or a new model with a loss of its
own, is one more function in `discovery` or `sets` and one more line of
`table.TASKS`; a new module for a part of a model is one more line of
`table.PARTS`.
"""

from slot_attention.tasks.discovery import (
  adaptive_object_discovery,
  iodine,
  monet,
  nem,
  object_discovery,
  video_object_discovery,
)
from slot_attention.tasks.sets import dspn, set_prediction
from slot_attention.tasks.table import (
  PARTS,
  TASKS,
  check_task,
  make_task,
  slots_section,
  with_defaults,
)
from slot_attention.tasks.task import COMPUTE_DTYPES, Arrays, Task, normalize

__all__ = [
  "COMPUTE_DTYPES",
  "PARTS",
  "TASKS",
  "Arrays",
  "Task",
  "adaptive_object_discovery",
  "check_task",
  "dspn",
  "iodine",
  "make_task",
  "monet",
  "nem",
  "normalize",
  "object_discovery",
  "set_prediction",
  "slots_section",
  "video_object_discovery",
  "with_defaults",
]
