"""Serves the page on this machine."""

import asyncio
from collections.abc import Mapping
import urllib.parse

from nicegui import app, background_tasks, binding, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request

from slot_attention.explore import page, state, view

# Every visit remembers this many messages, to send them again after a short
# loss of the connection. They hold pictures.
_MESSAGES = 20


def check(query: Mapping[str, str]) -> None:
  """Raises a ValueError for a query or for weights that cannot be opened."""
  wanted = state.read_query(query)
  name = wanted.pretrained or page.DEFAULT.pretrained
  view.load(None if wanted.workdir else name, wanted.workdir)


def serve(host: str, port: int, query: Mapping[str, str], *, show: bool):
  """Serves the page until Ctrl-C.

  Args:
    host: address on which to listen.
    port: of the page.
    query: of the first view.
    show: whether to open the page in a browser.
  """
  # In seconds. NiceGUI would warn of every pause of a busy machine.
  binding.MAX_PROPAGATION_TIME = 1.0
  first = f"/?{urllib.parse.urlencode(query)}" if query else "/"
  app.add_middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])
  # The port is opened after these functions have run.
  app.on_startup(lambda: background_tasks.create(_announce(host, port, first)))
  app.on_shutdown(lambda: page.WORKER.shutdown(wait=False, cancel_futures=True))

  @ui.page("/")
  async def visit(request: Request):
    """Builds the page of one visit, and fills it when it is connected."""
    visited = page.Page(dict(request.query_params) or query)
    await ui.context.client.connected()
    await visited.start()

  ui.run(
    host=host,
    port=port,
    title="Slot Attention",
    show=first if show else False,
    reload=False,
    show_welcome_message=False,
    message_history_length=_MESSAGES,
  )


async def _announce(host, port, first):
  """Prints the address of the page as soon as the port takes connections."""
  while True:
    try:
      _, writer = await asyncio.open_connection(host, port)
      break
    except OSError:
      await asyncio.sleep(0.05)
  writer.close()
  print(f"http://{host}:{port}{first}\nCtrl-C closes it.", flush=True)
