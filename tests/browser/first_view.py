"""How long the report page of many videos takes until its first cards are there.

``python -m tests.browser.first_view`` prints bytes that are read for it, all bytes of the report,
and the median of 9 loads.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from glc_ray.report_page.report import Report
from glc_ray.store.output import Output
from tests.browser.conftest import FLAGS, find_program
from tests.report_page.outputs import many, store_rows

_WATCH = """
new MutationObserver((_, watcher) => {
  if (!document.querySelector('.card')) return;
  watcher.disconnect();
  requestAnimationFrame(() => { window.firstView = performance.now(); });
}).observe(document, {childList: true, subtree: true});
"""


def main() -> None:
    """Make the report, open it, say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="?", type=int, default=10_000, help="[10000]")
    count = parser.parse_args().videos
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        output = Output(folder)
        store_rows(output, *many(count))
        report = Report(output)
        report.sync()
        report.write(None)
        browser = driver.chromium.launch(executable_path=find_program(), args=FLAGS)
        seconds, read = [], set()
        for _ in range(9):
            page = browser.new_page()
            page.add_init_script(_WATCH)
            page.on("request", lambda request: read.add(request.url.partition("?")[0]))
            page.goto(f"{Path(folder).as_uri()}/report/index.html")
            page.locator(".card").first.wait_for()
            page.wait_for_timeout(50)
            seconds.append(page.evaluate("window.firstView") / 1000)
            page.close()
        browser.close()
        paths = [Path(url.removeprefix("file://")) for url in read if url.startswith("file://")]
        first = sum(path.stat().st_size for path in paths)
        whole = sum(file.size for file in output.list("report"))
    print(
        f"{count} videos: {first / 1e3:.0f} kB of {whole / 1e6:.1f} MB are read for the first view;"
    )
    print(f"the first cards come after {statistics.median(seconds):.2f} s (median of 9)")


if __name__ == "__main__":
    main()
