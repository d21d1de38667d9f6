"""Hooks of mkdocs.yml: docstrings name other objects in Sphinx's way, of which the pages show the name alone."""

from __future__ import annotations

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Drop ``:func:`` and the like before a name, and the dots of its module after a ``~``."""
    html = re.sub(r":(?:func|class|meth|data|mod|attr):(?=<code>)", "", html)
    return re.sub(r"<code>~[\w.]*\.(\w+)</code>", r"<code>\1</code>", html)
