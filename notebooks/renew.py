"""Run notebooks, and keep them with their outputs: ``python notebooks/renew.py [NAME ...]``, all if none is named."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

folder = Path(__file__).parent
for path in [folder / f"{name}.ipynb" for name in sys.argv[1:]] or sorted(folder.glob("*.ipynb")):
    notebook = nbformat.read(path, as_version=4)
    kept = notebook.metadata.copy()
    with TemporaryDirectory() as empty:
        # When each cell ran is no result.
        client = NotebookClient(notebook, kernel_name="python3", record_timing=False)
        client.execute(cwd=empty)
    notebook.metadata = kept
    for cell in notebook.cells:
        if "outputs" in cell:  # a bar is shown where the machine took more than a second, and has no text
            cell.outputs = [each for each in cell.outputs if each.get("data", {}).get("text/plain") != ""]
    nbformat.write(notebook, path)
