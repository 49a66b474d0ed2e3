"""The page in a browser: no error, no request, nothing that an accessibility check finds, and tables that sort."""

import shutil

import pytest

from recalign.evaluation.chain_comparison import RunsComparison
from recalign.evaluation.page import write_page
from recalign.evaluation.sources import Sources

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright: drives a browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(made_up_chain, tmp_path_factory):
    folder = shutil.copytree(made_up_chain, tmp_path_factory.mktemp("seen") / "made-up")
    RunsComparison(folder, draws=200).make()
    return write_page(folder, Sources.of(folder))


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_in_both_themes_and_widths(browser, path, theme, width):
    page = browser.new_page(viewport={"width": width, "height": 1200}, color_scheme=theme)
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert errors == []
    assert requests == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # only tables scroll sideways
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_a_click_sorts_and_a_key_sorts_the_other_way(browser, path):
    page = browser.new_page()
    page.goto(path.as_uri())
    table = page.locator("table.sortable").first

    def column():
        cells = table.locator("tbody tr td:nth-child(2)").all()
        return [float(cell.get_attribute("data-value")) for cell in cells]

    assert column() != sorted(column(), reverse=True)
    table.locator("thead th:nth-child(2)").click()
    assert column() == sorted(column(), reverse=True)
    table.locator("thead th:nth-child(2) button").press("Enter")
    assert column() == sorted(column())
    page.close()
