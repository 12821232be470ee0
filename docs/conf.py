"""Sphinx: `python -m sphinx -W --keep-going -b html docs build/docs`."""

import re

project = "Slot Attention in JAX"
author = "The slot-attention-jax authors"
extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.autosummary",
  "sphinx.ext.napoleon",
]
templates_path = ["_templates"]
exclude_patterns = ["_templates"]
html_theme = "furo"
html_title = project
html_show_copyright = False
myst_heading_anchors = 3
smartquotes = False
# Docstrings have code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_attr_annotations = False


def setup(app):
  """Sphinx calls this."""
  app.connect("source-read", _offer_records)
  # Napoleon, with priority 500, reads what these return.
  app.connect("autodoc-process-docstring", _mark_blocks, priority=400)
  app.connect("autodoc-process-signature", _drop_flax_fields)
  app.connect("autodoc-skip-member", _skip_fields_of_tuples)


def _offer_records(app, name, source):
  """Markdown outside docs/ is no page of the site: it becomes a download."""
  source[0] = re.sub(r"\]\((\.\./[^)]*\.md)\)", r"](path:\1)", source[0])


# The least indentation of a list or a block of code in a section.
_BLOCKS = {"Args:": 5, "Attributes:": 5, "Raises:": 5, "Returns:": 3}


def _mark_blocks(app, what, name, obj, options, lines):
  """Turns indented lines into reStructuredText lists or blocks of code."""
  marked, block = [], []
  last = ""
  least = 1  # Indentation of a block.
  for line in [*lines, ""]:
    indentation = _indentation(line)
    if block and indentation < _indentation(block[0]):
      marked += _mark(block, is_apart=not marked[-1])
      block = []
    # A list may begin where the text of an argument goes on.
    is_list = last.endswith(":") and 0 < _indentation(last) < indentation
    if block or indentation >= least or is_list:
      block.append(line)
    else:
      marked.append(_escape(line))
    if line and not indentation:
      least = _BLOCKS.get(line, 1)
    last = line
  lines[:] = marked


def _mark(block, is_apart):
  """A block apart from the text, or in columns, is code; others are lists."""
  first = _indentation(block[0])
  if is_apart or any(re.search(r"\S {2}", line) for line in block):
    return ["", " " * (first - 2) + "::", "", *block, ""]
  bullet = " " * first + "- "
  return [
    "",
    *(
      re.sub(rf"^ {{{first}}}(?=[^ -])", bullet, _escape(line))
      for line in block
    ),
    "",
  ]


def _indentation(line):
  return len(line) - len(line.lstrip())


def _escape(line):
  """Outside code, neither a star nor an underscore at the end is markup."""
  if re.match(r" +\*+\w+:", line):  # Napoleon escapes these arguments.
    return line
  return re.sub(r"(`[^`]*`)|(\*|_\b)", lambda x: x[1] or "\\" + x[2], line)


def _drop_flax_fields(app, what, name, obj, options, signature, returned):
  """Every Flax module has the fields `parent` and `name`; users set neither."""
  if signature:
    fields = r"(, )?parent: .*?, name: .*?(?=\))"
    signature = re.sub(fields, "", signature)
  return signature, returned


def _skip_fields_of_tuples(app, what, name, obj, skip, options):
  """The docstring of a named tuple describes its fields."""
  doc = getattr(obj, "__doc__", None) or ""
  return True if doc.startswith("Alias for field number") else None
