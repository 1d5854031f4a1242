"""Makes quickstart.ipynb of quickstart.py: `python examples/make_notebook.py`. A cell begins with `# %%`."""

from __future__ import annotations

import json
from pathlib import Path


def notebook(script: str) -> str:
    """Return the notebook of a script, without outputs."""
    cells = []
    for part in ("\n" + script).split("\n# %%")[1:]:
        head, _, text = part.partition("\n")
        cell = {"cell_type": "code", "execution_count": None, "outputs": []}
        if head == " [markdown]":
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.strip().split("\n"))
            cell = {"cell_type": "markdown"}
        source = text.strip("\n").splitlines(keepends=True)
        cells.append({**cell, "id": f"cell-{len(cells)}", "metadata": {}, "source": source})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1) + "\n"


if __name__ == "__main__":
    script = Path(__file__).with_name("quickstart.py")
    script.with_suffix(".ipynb").write_text(notebook(script.read_text(encoding="utf-8")), encoding="utf-8")
