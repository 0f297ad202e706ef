"""What MkDocs does not do by itself: tables and plots of the benchmarks, and no comments in the pages."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from result_tables import RESULTS, results


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The plots lie outside of docs/."""
    for plot in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Results where a page names them; comments are for the tests (`tests/pages.py`)."""
    markdown = re.sub(r"<!-- results: ([\w-]+) -->", lambda match: results(match[1]), markdown)
    return re.sub(r"<!--.*?-->\n?", "", markdown, flags=re.DOTALL)
