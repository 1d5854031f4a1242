"""The page as one file: template, style, scripts, data. It loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UserError
from trainer.report.blocks import Chart, Section

FOLDER = Path(__file__).parent


def plotly_source() -> str:
    """Return plotly.js.

    Raises:
        UserError: what the page is made with is not installed.
    """
    try:
        import jinja2  # noqa: F401 - `render` needs it after minutes of work
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise UserError(f'report needs {error.name}, not installed: pip install "mealrec[report]"') from None
    source: str = get_plotlyjs()
    return source


def render(names: Sequence[str], split: str, sections: Sequence[Section], plotly: str) -> str:
    """Return the page as HTML.

    names: of the runs; plotly: the source of plotly.js. All other text is escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    own = (FOLDER / "page.js").read_text(encoding="utf-8")
    numbered = {id(chart): place for place, chart in enumerate(_charts(sections))}
    return environment.get_template("page.html").render(
        names=names,
        split=split,
        sections=sections,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        scripts=[plotly, own],
        hashes=[_hash(script) for script in (plotly, own)],
        charts=[{"traces": chart.traces, "layout": chart.layout} for chart in _charts(sections)],
        number_of=lambda chart: numbered[id(chart)],
    )


def _charts(sections: Sequence[Section]) -> list[Chart]:
    return [chart for section in sections for chart in section.charts]


def _hash(script: str) -> str:
    """A script as the page's own policy names it: no other is run, whatever stands in an id or a name."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
