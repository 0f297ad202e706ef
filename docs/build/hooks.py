"""What MkDocs does not do by itself: tables and plots of the benchmarks, cards of notebooks, and no comments in the pages."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from result_tables import RESULTS, results

# What arrays, plans and batches show in notebooks, as pictures.py has kept it.
PICTURES = Path(__file__).parents[1] / "how-to/pictures"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The plots lie outside of docs/."""
    for plot in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Results where a page names them; comments are for the tests (`tests/pages.py`)."""
    markdown = re.sub(r"<!-- results: ([\w-]+) -->", lambda match: results(match[1]), markdown)
    markdown = re.sub(r"<!-- card: (\w+) -->", lambda match: (PICTURES / f"{match[1]}.html").read_text(), markdown)
    return re.sub(r"<!--.*?-->\n?", "", markdown, flags=re.DOTALL)
