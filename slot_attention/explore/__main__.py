"""Opens a page on which slots can be looked at and rearranged.

  python -m slot_attention.explore
  python -m slot_attention.explore --pretrained=quickstart --port=8080
  python -m slot_attention.explore --workdir=runs/quickstart

The page is only for this machine (127.0.0.1), and needs no network. It shows
weights that come with the package or a run, on examples, on new scenes and on
own images. Ctrl-C closes it. docs/explore.md says what the page shows.
"""

from collections.abc import Sequence
import contextlib
import importlib.util
import socket
import urllib.parse

from slot_attention import command

HOST = "127.0.0.1"


def main(arguments: Sequence[str]) -> None:
  """The command; see the top of this file."""
  flags = command.Flags(__doc__)
  flags.define_run(is_needed=False)
  flags.define_integer(
    "port", 8080, "Port of the page; 0 takes a free one.", minimum=0
  )
  flags.define_bool("show", True, "Whether to open the page in a browser.")
  flags.define_string(
    "view", None, "What to show first: the query of a link of the page."
  )
  flags.parse(arguments)
  if importlib.util.find_spec("nicegui") is None:
    raise ImportError(
      'the page needs NiceGUI: pip install -e ".[explore]" installs it'
    )
  from slot_attention.explore import server

  query = dict(urllib.parse.parse_qsl(flags.view or ""))
  for name in ("pretrained", "workdir"):
    if flags[name].value:
      query[name] = flags[name].value
  server.check(query)
  with contextlib.suppress(KeyboardInterrupt):
    server.serve(HOST, _free_port(flags.port), query, show=flags.show)
  raise KeyboardInterrupt("the page is closed; the same command opens it again")


def _free_port(port):
  """Returns the port, or a free one for 0.

  Raises:
    UsageError: if another process uses the port.
  """
  with socket.socket() as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      sock.bind((HOST, port))
    except (OSError, OverflowError) as error:
      raise command.UsageError(
        f"port={port} cannot be used ({error}); choose another with --port"
      ) from error
    return sock.getsockname()[1]


if __name__ == "__main__":
  command.run(main)
