"""What the pages have in common: templates, scripts, their content security policy, and names of planes."""

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from scse.evaluation.verdict import p_text

PLANES = {"coronal": "LRSI", "axial": "LRAP", "sagittal": "PASI"}
"""Planes in which the viewer shows volumes, and what is on the left, on the right, at the top and at the bottom: left,
right, anterior, posterior, superior or inferior."""

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def render(template: str, *, scripts: Mapping[str, str], **content: Any) -> str:
    """A page from a template.

    Args:
        template: File name of the template.
        scripts: All scripts of the page, by name; the browser refuses others.
        content: Other variables of the template.
    """
    marked = {name: Markup(script) for name, script in scripts.items()}
    page = _environment().get_template(template)
    return page.render(scripts=marked, policy=_policy(scripts.values()), **content)


def read_scripts(*names: str) -> dict[str, str]:
    """Scripts of this package, by name."""
    folder = files("scse.reports") / "templates"
    return {name: (folder / f"{name}.js").read_text("utf-8") for name in names}


def json_markup(text: str) -> Markup:
    """Escape JSON so that it cannot end its script element."""
    return Markup(text.replace("<", "\\u003c"))


def _policy(scripts: Iterable[str]) -> str:
    """Content security policy of the page: only these scripts, no network access, nothing embedded.

    Inline styles and images in memory are allowed, because plotly needs them.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scse.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p"] = lambda p: NOTHING if math.isnan(p) else p_text(p).removeprefix("= ")
    environment.filters["minus"] = lambda text: re.sub(r"(?<![\w])-(?=\d)", MINUS, text)
    environment.filters["whole"] = _whole_options
    environment.filters["number"] = lambda x: NOTHING if math.isnan(x) else f"{x:.3f}"
    return environment


def _whole_options(text: str) -> Markup:
    """Prevent line breaks within options, such as --seeds 3."""
    return Markup(re.sub(r"(--[a-z]+(?: \d+)?)", r'<span class="option">\1</span>', str(escape(text))))
