"""The report page in a real Chromium: what a person does with it, and that it loads nothing."""

import base64
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from console import harness
from pages import HOSTILE, confident, passages, questions, report

from harness.records.outcomes import Shown

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
if not CHROMIUM or not DRIVER:
    pytest.skip("there is no chromium with its chromedriver on PATH", allow_module_level=True)
selenium = pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

Browser = webdriver.Chrome
RIGHT = [i % 2 for i in range(40)]  # of the first run
OTHER = [1 - r if i < 3 else r for i, r in enumerate(RIGHT)]  # three examples flipped


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    hostile = [Shown(text, text, text) for text in HOSTILE]
    plain = [Shown(f"question {i}", f"w{i}", f"g{i}") for i in range(len(HOSTILE), 40)]
    for side, name, right in (("a", HOSTILE[1], RIGHT), ("b", "zweite", OTHER)):
        questions(folder / side, name, right, [*hostile, *plain])
        passages(folder / side, name, [1.0, 2.0, 0.5], 124_439_808)
    confident(folder / "b", "zweite")
    return report(folder / "r.html", folder / "a", folder / "b")


@pytest.fixture
def browser(started: Browser, page: Path) -> Iterator[Browser]:
    """The page, freshly opened on a wide screen; whatever a test does, the console stays empty."""
    screen(started, 1280)
    started.get_log("performance")
    started.get(page.as_uri())
    choose(started, "#example-group", "cbt-cn")
    yield started
    assert messages(started) == []
    assert started.title == "Zero-shot report", "no text from a model ran"


def screen(browser: Browser, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def messages(browser: Browser) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser")]


def requested(browser: Browser) -> list[str]:
    """Addresses that the page has requested since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter(e => e.checkVisibility()).map(e => e.textContent)",
        selector,
    )
    return found


def beyond(browser: Browser) -> int:
    """By how many pixels the page is wider than the screen."""
    found: int = browser.execute_script(
        "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    )
    return found


def at(browser: Browser, selector: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, selector)


def choose(browser: Browser, selector: str, label: str) -> None:
    Select(at(browser, selector)).select_by_visible_text(label)


# --- no requests --------------------------------------------------------------------------


def test_no_request_leaves_the_page(browser: Browser, page: Path) -> None:
    for group in ("cbt-cn", "lambada"):
        choose(browser, "#example-group", group)
        for summary in browser.find_elements(By.CSS_SELECTOR, ".example > summary")[:6]:
            summary.click()
    assert requested(browser) == [page.as_uri()]


def test_the_policy_would_stop_one(browser: Browser) -> None:
    """The test above can fail: what comes from outside is refused, and the console says so."""
    browser.execute_script("new Image().src = 'http://127.0.0.1:9/x.png'")
    browser.execute_script(
        "document.body.insertAdjacentHTML('beforeend', '<p id=bad onclick=\"document.title=1\">')"
        "; document.getElementById('bad').click()"
    )
    said = messages(browser)
    assert len(said) == 2
    assert all("Content Security Policy" in text for text in said)
    assert browser.title == "Zero-shot report"


# --- text stays text ----------------------------------------------------------------------


def test_hostile_items_are_shown_as_they_are(browser: Browser) -> None:
    for summary in browser.find_elements(By.CSS_SELECTOR, ".example > summary")[: len(HOSTILE)]:
        summary.click()
    WebDriverWait(browser, 5).until(lambda browser: len(texts(browser, ".body")) == len(HOSTILE))
    for place, text in enumerate(HOSTILE):
        shown = browser.execute_script(
            "return [...document.querySelectorAll('.example')[arguments[0]]"
            ".querySelectorAll('.body > div > .text')].map(e => e.textContent)",
            place,
        )
        wanted = text if len(text) < 2000 else f"{text[:2000]}… (98,000 more characters)"
        assert shown[:2] == [wanted, wanted]
    assert browser.execute_script("return document.images.length") == 0
    assert beyond(browser) == 0


def test_a_hostile_name_is_a_label(browser: Browser) -> None:
    assert browser.execute_script("return JSON.parse(data.textContent).labels[0]") in texts(
        browser, "#table3 th"
    )


def test_text_from_right_to_left_stays_in_its_box(browser: Browser) -> None:
    """Nothing next to an example with direction marks is turned around."""
    order = browser.execute_script(
        "const item = document.querySelectorAll('.example')[3];"
        "return [...item.querySelector('summary').children]"
        ".map(e => e.getBoundingClientRect().left)"
    )
    assert order == sorted(order)
    isolated = "return getComputedStyle(document.querySelector('.example .tail')).unicodeBidi"
    assert browser.execute_script(isolated) == "isolate"


# --- the leaderboard ----------------------------------------------------------------------


def column(browser: Browser, name: str) -> list[str]:
    found: list[str] = browser.execute_script(
        "const table = document.getElementById('board');"
        "const heads = [...table.tHead.rows[0].cells];"
        "const place = heads.findIndex(c => c.textContent === arguments[0]);"
        "return [...table.tBodies[0].rows].filter(r => !r.hidden)"
        ".map(r => r.cells[place].textContent)",
        name,
    )
    return found


def test_the_head_sorts_both_ways(browser: Browser) -> None:
    before = column(browser, "CBT-CN ACC")
    assert len(set(before)) == 2
    for state, reverse in (("ascending", False), ("descending", True)):
        button = at(browser, "#board th[data-task='cbt-cn'] button")
        button.send_keys(Keys.ENTER)
        assert column(browser, "CBT-CN ACC") == sorted(before, key=float, reverse=reverse)
        heads = browser.find_elements(By.CSS_SELECTOR, "#board th[aria-sort]")
        assert [head.get_attribute("aria-sort") for head in heads] == [state]


def test_empty_cells_are_last_in_either_direction(browser: Browser) -> None:
    for _ in range(2):
        at(browser, "#board th[data-task='nq'] button").click()
        assert column(browser, "NQ EM") == ["28.57", ""]


def test_words_filter_the_rows(browser: Browser) -> None:
    at(browser, "#board-filter").send_keys("ZWEI")
    assert column(browser, "model") == ["zweite"]
    assert at(browser, "#board-count").text == "1 of 2 rows"
    at(browser, "#board-filter").send_keys(" nothing")
    assert column(browser, "model") == []


def test_a_benchmark_picks_its_columns(browser: Browser) -> None:
    choose(browser, "#board-task", "lambada")
    heads = texts(browser, "#board thead th")
    assert "LAMBADA PPL" in heads
    assert "CBT-CN ACC" not in heads
    assert "model" in heads
    choose(browser, "#board-task", "all")
    assert "CBT-CN ACC" in texts(browser, "#board thead th")


# --- examples -----------------------------------------------------------------------------


def test_an_item_opens_by_keyboard_with_both_runs(browser: Browser) -> None:
    at(browser, "#example-search").send_keys("QUESTION 17")
    assert texts(browser, ".example .id") == ["17"]
    at(browser, ".example > summary").send_keys(Keys.ENTER)
    WebDriverWait(browser, 5).until(lambda browser: texts(browser, ".body"))
    assert texts(browser, ".body > div > .text") == ["question 17", "w17"]
    assert texts(browser, ".run > .text") == ["g17", "g17"]
    assert [text[-5:] for text in texts(browser, ".run > h3")] == ["right", "right"]


def test_flipped_items_stand_side_by_side(browser: Browser) -> None:
    choose(browser, "#example-show", "flipped")
    flipped = [str(i) for i in range(40) if RIGHT[i] != OTHER[i]]
    assert texts(browser, ".example .id") == flipped
    at(browser, ".example > summary").click()
    WebDriverWait(browser, 5).until(lambda browser: texts(browser, ".run"))
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.run')].map(e => e.getBoundingClientRect())"
        ".map(r => [r.top, r.left])"
    )
    assert boxes[0][0] == boxes[1][0]
    assert boxes[0][1] < boxes[1][1]


def test_the_count_of_flips_leads_to_them(browser: Browser) -> None:
    at(browser, "#changes a[data-task='cbt-cn']").click()
    assert len(texts(browser, ".example")) == 3
    assert browser.current_url.endswith("#examples")


def test_right_and_wrong_are_told_apart(browser: Browser) -> None:
    choose(browser, "#example-show", "right in every run")
    both = [str(i) for i in range(40) if RIGHT[i] and OTHER[i]]
    assert texts(browser, ".example .id") == both
    choose(browser, "#example-show", "wrong in a run")
    assert at(browser, "#example-count").text.startswith(f"{40 - len(both)} shown of 40 examples")


def test_worst_items_come_first(browser: Browser) -> None:
    choose(browser, "#example-group", "lambada")
    choose(browser, "#example-order", "worst first")
    assert texts(browser, ".example .id") == ["p1", "p0", "p2"]


def test_more_items_are_shown_on_demand(browser: Browser) -> None:
    assert len(texts(browser, ".example")) == 25
    at(browser, "#example-more").click()
    assert len(texts(browser, ".example")) == 40
    assert not at(browser, "#example-more").is_displayed()


def test_tokens_are_shaded_by_their_probability(
    browser: Browser, tiny_folder: Path, tmp_path: Path
) -> None:
    where = ("--cache", tmp_path / "cache")
    model = ("--model", tiny_folder, "--device", "cpu", "--sample", "--limit", 2)
    assert harness("text8", *model, *where, "--out", tmp_path / "runs").code == 0
    page = report(tmp_path / "r.html", tmp_path / "runs", *where)
    browser.get(page.as_uri())
    at(browser, ".example > summary").click()
    WebDriverWait(browser, 5).until(lambda browser: texts(browser, ".tok"))
    [trace] = browser.execute_script("return window.reportData.groups[0].examples[0].runs[0].trace")
    scored = [(text, logprob) for text, on, logprob, _ in trace["tokens"] if on]
    classes = browser.execute_script(
        "return [...document.querySelectorAll('.tok')].map(e => [e.textContent, e.classList[1]])"
    )
    edges = (0.9, 0.6, 0.35, 0.1, 0.01)
    assert len(scored) > 20
    assert classes == [
        [text, f"s{sum(math.exp(logprob) <= edge for edge in edges)}"] for text, logprob in scored
    ]
    shades = browser.execute_script(
        "return [...document.querySelectorAll('#example-shades span')]"
        ".map(e => getComputedStyle(e).backgroundColor)"
    )
    assert len(set(shades)) == 6
    assert at(browser, "#example-shades").is_displayed()


# --- charts, screens, paper ---------------------------------------------------------------


def test_charts_are_drawn_as_vectors_when_they_come_near(browser: Browser) -> None:
    for chart in browser.find_elements(By.CSS_SELECTOR, ".chart"):
        browser.execute_script("arguments[0].scrollIntoView()", chart)
        WebDriverWait(browser, 5).until(
            lambda _, chart=chart: chart.find_elements(By.CSS_SELECTOR, "svg")
        )
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.chart')]"
        ".map(e => e.querySelectorAll('svg path').length)"
    )
    assert len(drawn) == len(texts(browser, "#scaling figure")) + 1
    assert all(count > 4 for count in drawn)
    assert "762M" in "".join(texts(browser, "[data-curve] text"))


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(browser: Browser, width: int) -> None:
    screen(browser, width)
    browser.refresh()
    for summary in browser.find_elements(By.CSS_SELECTOR, "summary")[:12]:
        browser.execute_script("arguments[0].click()", summary)
    assert beyond(browser) == 0


def test_dark_mode_is_dark(browser: Browser) -> None:
    def light() -> tuple[int, int]:
        colours = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        ground, ink = (sum(map(int, c[4:-1].split(","))) for c in colours)
        return ground, ink

    ground, ink = light()
    assert ground > 700 > 150 > ink
    screen(browser, 1280, "dark")
    ground, ink = light()
    assert ground < 150 < 600 < ink


def test_it_prints(browser: Browser) -> None:
    pdf = base64.b64decode(browser.print_page())
    assert pdf.startswith(b"%PDF")
    assert pdf.count(b"/Type /Page\n") >= 2
