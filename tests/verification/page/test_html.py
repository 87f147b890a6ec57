"""The report page: what is in it, and what a browser makes of it."""

import json
import math
import os
import re
import shutil
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from verification.page.html import check_of, render
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, NULL, Kill, KillMatrix, Report, Row

NASTY = '<b>not bold</b> </script><script>document.title = "run"</script> & "quoted"'
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
PHONE, DESKTOP = 380, 1280


def row(subject="batch_norm", case="N=2", quantity="output", dtype="float32", **values):
    numbers = {"error": 1e-8, "builtin_error": 2e-8, "bound": 1e-7, "rule": "1.25·builtin"}
    return Row(subject, case, quantity, dtype, **{**numbers, "verdict": AS_GOOD, **values})


REPEAT = "python -m verification op my.module:norm --cases 'N=2' --seed 4"
FAILING = row(
    quantity="grad input", error=3e-5, verdict=ANOTHER, note=NASTY, seed=4, margin=0.5,
    nearest="ε dropped", repeat=REPEAT, floor=math.nan,
)  # fmt: skip
ROWS = [
    row(),
    FAILING,
    row("Adam", "lr=0.1 betas=(0.9, 0.99)", "param", verdict=INCONCLUSIVE, error=math.inf),
    row("Adam", "lr=0.1 betas=(0.9, 0.99)", "step", error=0.0, builtin_error=math.nan),
    row("lockstep", "mlp, 20 steps", "norm1.bias", "float64", rule="1e-08"),
    row("lockstep", "mlp, 20 steps", "norm1.bias", "float64", bound=math.inf, verdict=NULL),
]
KILLS = KillMatrix(
    "c0ffee",
    [
        Kill("batch_norm", "no γ in dx", "planted bug", "quick", [FAILING], True, False),
        Kill("batch_norm", "zeros", "trivial candidate", "quick", [row()], None, True),
        Kill("Adam", "<ε ×10>", "planted bug", "full"),
        Kill("Adam", "step stays 0", "planted bug", "full", note="the same in every output"),
    ],
)


class Elements(HTMLParser):
    """Every element with the text directly in it."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])

    def handle_data(self, data):
        if self.found:
            self.found[-1][2] += data


def data_of(page):
    (text,) = [e[2] for e in Elements(page).found if e[1].get("id") == "data"]
    return json.loads(text)


def test_the_page_says_in_a_line_what_came_out():
    for rows, words in (
        (ROWS, "Failed.</strong> Of 6 rows: 1 another function, 1 inconclusive."),
        (ROWS[:1], "Passed.</strong> All 1 rows are within their bounds."),
        (ROWS[2:3], "Inconclusive.</strong> Of 1 rows: 1 inconclusive."),
        ([], "Nothing was checked.</strong>"),
    ):
        assert words in render(Report(rows, "a title")), words


def test_of_a_kill_matrix_alone_the_page_says_what_was_caught():
    page = render(Report([], "planted bugs", KILLS))
    assert "Failed.</strong> Of 4 planted bugs, 1 not caught." in page
    assert 'id="verdicts"' not in page
    page = render(Report([], "planted bugs", replace(KILLS, kills=KILLS.kills[:2])))
    assert "Passed.</strong> All 2 planted bugs are caught or explained." in page


def test_nothing_is_loaded_and_nothing_in_a_report_is_markup():
    page = render(Report([replace(r, case=NASTY, note=NASTY) for r in ROWS], NASTY, KILLS))
    elements = Elements(page).found
    assert not [e for e in elements if "src" in e[1] or e[1].get("href", "#")[:1] not in ("#", "d")]
    assert [e[0] for e in elements].count("script") == 2  # the data, and the page's own
    assert not [e for e in elements if e[0] == "b" and "not bold" in e[2]]
    assert not re.search(r"url\(|@import|https?:", page)
    assert "&lt;ε ×10&gt;" in page


def test_the_data_hold_every_row_and_no_nan():
    page = render(Report(ROWS))
    columns = data_of(page)
    assert "NaN" not in page.split('id="data">')[1].split("</script>")[0]
    assert columns["count"] == len(ROWS)
    assert columns["error"] == [1e-8, 3e-5, "inf", 0.0, 1e-8, 1e-8]
    assert columns["builtin_error"][3] is None
    repeat = columns["repeat"]
    assert repeat["words"][repeat["at"][1]] == REPEAT


@pytest.mark.parametrize(
    ("quantity", "check"),
    [
        ("output", "values"), ("param", "values"), ("loss", "values"), ("parameter b", "values"),
        ("grad input", "gradients"), ("gradient of 0.weight", "gradients"),
        ("forward over reverse", "derivatives"), ("Taylor slope", "derivatives"),
        ("running_var", "state"), ("buffer mean", "state"), ("max_exp_avg_sq", "state"),
        ("exp_avg of weight", "state"),
        ("global state", "state"), ("attribute eps", "options"),
        ("random state moves", "randomness"), ("p = 1: values", "randomness"),
        ("neighbouring channels", "randomness"), ("bytes kept", "memory"), ("error", "errors"),
        ("pairs missing", "options"), ("support", "transforms"), ("loss, 20 steps", "training"),
        ("norm1.running_var", "training"), ("-", "runs"), ("something new", "other"),
    ],
)  # fmt: skip
def test_a_quantity_belongs_to_a_check(quantity, check):
    assert check_of(row(quantity=quantity)) == check


def test_errors_are_counted_in_eps():
    eps = 2.0**-23
    page = render(Report([row(error=e * eps, builtin_error=4 * eps) for e in (0, 1, 1.9, 3)]))
    assert "batch_norm, float32: 4 errors: median 1.4, at most 3; builtin 4, 4" in page
    assert page.count('<rect class="ours"') == 3  # exact, [1, 2) and [2, 4)
    assert page.count('<rect class="theirs"') == 1


def test_a_gap_to_the_builtin_is_no_error_against_the_oracle():
    rows = [row(rule=rule) for rule in ("builtin to 1e-12", "bitwise", "1e-08", "builtin's bytes")]
    assert 'id="accuracy"' not in render(Report(rows))


def test_survivors_of_the_kill_matrix_stand_out():
    page = render(Report(ROWS[:1], "", KILLS))
    assert page.count('class="survivor"') == 1  # the other one is explained
    for rate in ("2 of 4, 50 %", "1 of 1, 100 %", "1 of 2, 50 %", "2 of 2, 100 %"):
        assert rate in page  # these checks, gradcheck, assert_close, either of the two
    assert "the same in every output" in page


def test_without_a_kill_matrix_the_page_names_the_command():
    assert "python -m verification mutants" in render(Report(ROWS))


@dataclass(frozen=True)
class First:
    step: int = 3
    layer: str = "norm2"
    local: float = 2e-3
    inherited: float = math.nan


@dataclass(frozen=True)
class Models(Report):
    first_difference: First = First()
    unmatched: list[str] = field(default_factory=lambda: ["the layer <conv9>"])
    null_directions: list[str] = field(default_factory=lambda: ["0.bias: 16 elements"])


def test_a_comparison_of_models_shows_the_first_difference():
    page = render(Models(ROWS))
    card = page[page.index('id="first"') :].split("</section>")[0]
    assert re.findall(r"<dd>(.*?)</dd>", card) == ["3", "norm2", "0.002", "–"]
    assert "the layer &lt;conv9&gt;" in page
    assert "0.bias: 16 elements" in page


def test_only_so_many_failures_are_written_out():
    page = render(Report([FAILING] * 300))
    assert page.count('<article class="card') == 200
    assert "The first 200 of 300" in page


# In a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    missing = [path for path in (CHROMIUM, DRIVER) if not shutil.which(path)]
    if missing:
        message = f"no {', '.join(missing)}: install Debian's chromium and chromium-driver"
        if os.environ.get("REFNET_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    os.environ |= {"SE_AVOID_STATS": "true", "SE_OFFLINE": "true"}
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run",
        "hide-scrollbars",
        "disable-background-networking", "disable-component-update", "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get("about:blank")
    driver.get_log("performance")  # of Debian's start page, which it began with
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    def open_page(report, width=DESKTOP, **media):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media.get("kind", ""), "features": features}
        )
        file = tmp_path / "report.html"
        file.write_text(render(report), encoding="utf-8")
        browser.get(file.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert not re.findall(r'"url":"(?:http|ws)[^"]+', str(browser.get_log("performance")))
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def select(page, name, value):
    page.find_element("css selector", f"#{name} option[value='{value}']").click()


def shown(page):
    """Return the count that the page tells, and the cases of the rows in the table."""
    cells = "return [...document.querySelectorAll('table.rows tbody th')].map(c => c.textContent)"
    return page.find_element("id", "count").text, page.execute_script(cells)


def test_search_and_filters_choose_rows(opened):
    page = opened(Report(ROWS, "six rows", KILLS))
    assert page.title == "Failed: six rows"  # and the script in the note has not run
    assert shown(page)[0] == "6 of 6 rows"
    search = page.find_element("id", "search")
    search.send_keys("DROPPED grad")  # words of two columns, in any case
    assert shown(page) == ("1 of 6 rows", ["batch_norm: N=2"])
    page.find_element("css selector", "button[type=reset]").click()
    assert shown(page)[0] == "6 of 6 rows"
    for name, value, count in (
        ("subject", "Adam", 2), ("check", "training", 2), ("verdict", "failing", 2),
        ("verdict", "inconclusive", 1), ("dtype", "float64", 2),
    ):  # fmt: skip
        select(page, name, value)
        assert shown(page)[0] == f"{count} of 6 rows", (name, value)
        select(page, name, "")
    select(page, "subject", "Adam")
    select(page, "verdict", "as good")
    assert shown(page) == ("1 of 6 rows", ["Adam: lr=0.1 betas=(0.9, 0.99)"])


def test_failures_come_first_and_then_what_is_close_to_its_bound(opened):
    rows = [row(case=f"used {u:g}", error=u, bound=1.0) for u in (0.1, 0.9, math.nan, 0.5)]
    rows.append(row(case="failed", error=0.3, bound=1.0, verdict=INCONCLUSIVE))
    page = opened(Report(rows))
    cases = [case.removeprefix("batch_norm: ") for case in shown(page)[1]]
    assert cases == ["failed", "used 0.9", "used 0.5", "used 0.1", "used nan"]
    select(page, "order", "")
    assert shown(page)[1][0] == "batch_norm: used 0.1"


def test_a_row_opens_and_its_command_is_copied(opened):
    page = opened(Report(ROWS))
    page.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    page.find_element("id", "search").send_keys("dropped")
    more = page.find_element("css selector", ".toggle")
    assert more.get_attribute("aria-expanded") == "false"
    more.send_keys("\n")  # by the keyboard
    assert more.get_attribute("aria-expanded") == "true"
    details = page.find_elements("css selector", "tr.details")[0]
    assert NASTY in details.text
    assert "ε dropped, 0.5 bounds away" in details.text
    assert details.find_element("css selector", "code").text == REPEAT
    details.find_element("css selector", ".copy").click()
    read = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    assert page.execute_async_script(read) == REPEAT


def test_a_cell_of_the_verdicts_leads_to_its_rows(opened):
    page = opened(Report(ROWS))
    page.find_element("css selector", ".matrix [data-subject=Adam][data-check=state]").click()
    assert shown(page) == ("1 of 6 rows", ["Adam: lr=0.1 betas=(0.9, 0.99)"])
    link = page.find_element("css selector", "[data-search='betas=(0.9, 0.99)']")
    page.execute_script("arguments[0].click()", link)  # in what may be folded up
    assert shown(page)[0] == "2 of 6 rows"


def test_twelve_thousand_rows_can_be_searched(opened):
    rows = [row(case=f"case {i % 500}", note=f"note {i}", error=1e-9 * i) for i in range(12_000)]
    page = opened(Report(rows))
    assert shown(page)[0] == "12000 of 12000 rows, the first 100 shown"
    page.find_element("id", "more").click()
    assert len(shown(page)[1]) == 200
    search = """
        const field = document.getElementById("search");
        field.value = "note 1199";
        field.dispatchEvent(new Event("input", { bubbles: true }));"""
    page.execute_script(search)
    assert shown(page)[0] == "12 of 12000 rows"  # 1199, 11199 and 11990 to 11999


@pytest.mark.parametrize("width", [320, PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_and_text_stands_out(opened, width, scheme):
    long = "long_names_without_a_space_" * 6
    rows = [*ROWS, row(long, long, "output", note=long, repeat=long, verdict=ANOTHER)]
    page = opened(Models(rows, long, KILLS), width, scheme=scheme)
    for toggle in page.find_elements("css selector", "details:not([open]) summary, .toggle"):
        page.execute_script("arguments[0].click()", toggle)
    widths = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(widths) == [width, width]
    assert page.execute_script(CONTRAST) == []


# Text whose contrast with what is behind it is below 4.5, by the formula of WCAG.
CONTRAST = """
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (c) => c.slice(0, 3)
      .map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
      const color = rgb(getComputedStyle(e).backgroundColor);
      return color[3] === 0 && e.parentElement ? behind(e.parentElement) : color;
    };
    return [...document.querySelectorAll("body *")]
      .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
      .filter((e) => e.checkVisibility() && !e.closest("script, svg, option"))
      .map((e) => {
        const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 30)];
      })
      .filter(([ratio]) => ratio < 4.5);"""


def test_every_control_has_a_name_and_headings_are_in_order(opened):
    page = opened(Report(ROWS, "", KILLS))
    controls = page.find_elements("css selector", "input, select, button, summary, [tabindex], svg")
    names = [c.accessible_name for c in controls if c.is_displayed()]
    assert len(names) > 20
    assert all(names)
    levels = [int(h.tag_name[1]) for h in page.find_elements("css selector", "h1, h2, h3, h4, h5")]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_on_paper_the_controls_are_gone_and_the_failures_are_there(opened):
    page = opened(Report(ROWS), 700, kind="print", scheme="dark")
    for hidden in ("form", "nav", ".copy", ".toggle"):
        assert not page.find_element("css selector", hidden).is_displayed(), hidden
    card = page.find_element("css selector", "article.card")
    assert REPEAT in card.text
    assert NASTY in card.text
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
