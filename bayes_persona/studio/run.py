"""The `studio` command: serve the page on this machine, to nobody else unless told to, with nothing from elsewhere."""

import os
import shutil
import signal
import threading
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.markup import escape

from bayes_persona.errors import RunError, needs_extra
from bayes_persona.studio import look
from bayes_persona.studio.config import LOOPBACK, Config
from bayes_persona.studio.page import build

with needs_extra("studio"):
    from starlette.datastructures import MutableHeaders
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

LARGEST = "100mb"
"""Size of the largest photo that is taken in; what it may unfold to is checked where it is read."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""With these the browser itself refuses to load anything from another machine, or to be shown inside another page."""


class Guard:
    """Puts `HEADERS` on every answer.

    Args:
        app: Who answers.

    >>> Guard(app=None).app is None
    True
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, sent)


def run(config: Config, console: Console) -> None:
    """Serve the page until it is interrupted; then the process ends."""
    uploads = config.out.resolve() / "uploads"
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(uploads)}
    if not config.private:
        console.print(
            f"[bold yellow]Warning:[/bold yellow] {escape(config.host)} is not this machine alone. Whoever reaches it "
            "sees the photos and everybody who was learned, and can make this machine work. There is no password."
        )
    hosts = list(LOOPBACK) if config.private else ["*"]
    page = build(config)
    try:
        _, url, _ = page.launch(
            server_name=config.host, server_port=config.port or None, inbrowser=config.browser, share=False, quiet=True,
            prevent_thread_lock=True, ssr_mode=False, mcp_server=False, enable_monitoring=False, run_history=False,
            show_error=True, footer_links=[], max_file_size=LARGEST, allowed_paths=[str(config.out.resolve())],
            theme=look.theme(), css=look.CSS,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Guard)]},
        )  # fmt: skip
    except OSError as error:
        raise RunError(f"{config.host}:{config.port}: cannot be served ({error}); give another --port") from error
    console.print(f"The studio is open at [bold]{escape(url)}[/bold], and Ctrl-C closes it.")
    for asked in (signal.SIGINT, signal.SIGTERM):  # a shell that starts it in the background has the first ignored
        signal.signal(asked, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):  # which is how it is closed
            threading.Event().wait()
    finally:
        page.close(verbose=False)
        shutil.rmtree(uploads, ignore_errors=True)  # who was learned has copies of the photos in a folder of their own
    os._exit(0)  # threads of the server and of torch that still wait abort a process that ends the usual way
