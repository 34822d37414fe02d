"""The page in a real browser, Debian's Chromium: each tab as a person uses it, by mouse and by keyboard."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast
from urllib.request import urlopen

import numpy as np
import pytest
import worlds

CHROMIUM = Path("/usr/bin/chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install hf_mia[test]")
if not CHROMIUM.exists():
    pytest.skip("there is no browser: apt-get install chromium", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect  # noqa: E402

from hf_mia.app import blocks  # noqa: E402
from hf_mia.app.embedded import IMAGE, Embedded  # noqa: E402
from hf_mia.app.limits import Limits  # noqa: E402
from hf_mia.app.shelf import Shelf  # noqa: E402
from hf_mia.attacks.threshold import Threshold  # noqa: E402
from hf_mia.probes.views import Views  # noqa: E402
from hf_mia.recipes.contrastive import SimCLR  # noqa: E402
from hf_mia.signals.encoder import MeanSimilarity  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # a browser on a busy machine
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ARGUMENTS += ["--disable-sync", "--no-first-run"]
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
WAIT = 120_000  # milliseconds, for a busy machine
# how many pixels of a choice's text are under its arrow
UNDER = """choice => choice.getBoundingClientRect().right - parseFloat(getComputedStyle(choice).paddingRight)
    - choice.parentElement.querySelector('.icon-wrap').getBoundingClientRect().left"""
COLOURS = """word => {
    let ground = word;
    const clear = one => /, 0\\)$|transparent/.test(getComputedStyle(one).backgroundColor);
    while (ground && clear(ground)) ground = ground.parentElement;
    return [getComputedStyle(word).color, ground ? getComputedStyle(ground).backgroundColor : 'rgb(255, 255, 255)'];
}"""
expect.set_options(timeout=WAIT)
SHOTS = os.environ.get("HF_MIA_SCREENSHOTS")  # a folder to look at


@pytest.fixture(scope="module")
def address(run_folder: Path, image_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`hf-mia demo app` in a process of its own, until it is stopped as a container is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "hf_mia", "demo", "app", "--run", str(run_folder), "--run", str(image_run)]
    command += ["--port", str(port), "--cache", str(folder / "cache")]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/", server, folder / "log")
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(timeout=60)
    assert not list(folder.glob("hf_mia-app-*")), "what visitors sent is removed at the end"
    assert "Traceback" not in (folder / "log").read_text()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + WAIT / 500
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Page]:
    page = opened(browser, address, DESKTOP, "light")
    yield page
    page.context.close()


def opened(browser: Browser, address: str, size: dict[str, int], scheme: str) -> Page:
    """A visitor of their own; an error of a script on the page fails the test, and nothing is asked of other hosts."""
    context = browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT)
    context.route("**/*", lambda route: route.continue_() if address in route.request.url else route.abort())
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    page.goto(address)
    expect(page.get_by_role("heading", name="Whose data does a model give away?")).to_be_visible(timeout=WAIT)
    return page


def shot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def ask(page: Page, texts: str) -> None:
    page.get_by_label("Texts of one user, one a line").fill(texts)
    page.get_by_role("button", name="Ask", exact=True).click()


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def told(page: Page) -> str:
    """What the page answers, once it is there."""
    answer = page.locator(".mia-verdict:visible")
    expect(answer).to_be_visible(timeout=WAIT)
    return answer.inner_text()


def test_texts_get_a_verdict_a_figure_and_ranks(visit: Page) -> None:
    ask(visit, "w001 w002 w003\nw004 unheard")
    assert re.search("Consistent with membership|Not distinguishable|n/a", told(visit))
    words = visit.locator(".mia-word:visible").filter(has=visit.locator("small"))
    assert words.count() == 5
    assert words.last.inner_text().split("\n")[0] == "unheard?"
    assert "words were likelier" in str(words.first.get_attribute("title"))
    figure = visit.locator(".mia-figure img:visible")
    assert "non-members score as high as" in str(figure.get_attribute("alt"))
    assert figure.evaluate("image => image.complete && image.naturalWidth > 100")
    visit.get_by_role("button", name="The answer as JSON").locator("visible=true").click()
    expect(visit.get_by_text('"p_value"').first).to_be_visible()
    shot(visit, "text-desktop-light")


def test_markup_in_a_text_is_text(visit: Page) -> None:
    hostile = "<img src=x onerror=\"document.title='gone'\"> ${document.title='gone'} {{value}} <b>w001</b>"
    ask(visit, hostile)
    told(visit)
    shown = visit.locator(".mia-words:visible").first.inner_text()
    assert "onerror" in shown
    assert "$" in shown
    assert visit.title() != "gone"
    assert visit.locator(".mia-words b, .mia-words img").count() == 0


def test_wrong_input_is_said_and_can_be_mended(visit: Page) -> None:
    ask(visit, "   ")
    expect(visit.get_by_text("There is nothing to read: paste the texts of one user").first).to_be_visible()
    visit.get_by_label("False-positive rate").locator("visible=true").first.fill("5")
    ask(visit, "<b>w001</b> w002")
    expect(visit.get_by_text("write five percent as 0.05").first).to_be_visible()
    shot(visit, "error-desktop-light")
    visit.get_by_label("False-positive rate").locator("visible=true").first.fill("0.1")
    ask(visit, "w001 w002")
    assert told(visit)


def test_another_attack_is_chosen(visit: Page) -> None:
    visit.get_by_label("Attack").locator("visible=true").first.click()
    visit.get_by_role("option", name="mean-loss").click()
    ask(visit, "w001 w002")
    told(visit)
    expect(visit.get_by_text("by mean-loss: evidence, not proof").first).to_be_visible()


def test_an_image_gets_views_and_a_matrix(visit: Page, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(worlds.noise(1, 3)[0])
    tab(visit, "Image")
    visit.locator("input[type=file]:visible, input[type=file]").first.set_input_files(str(tmp_path / "x.png"))
    expect(visit.get_by_text("x.png").first).to_be_visible()
    visit.get_by_role("button", name="Ask", exact=True).locator("visible=true").click()
    assert told(visit)
    assert visit.locator(".mia-views:visible img").count() == 10
    assert visit.locator(".mia-figure:visible img").count() == 2
    shot(visit, "image-desktop-light")


def test_an_image_that_is_none_is_refused(visit: Page, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    tab(visit, "Image")
    visit.locator("input[type=file]").first.set_input_files(str(tmp_path / "x.png"))
    expect(visit.get_by_text("x.png").first).to_be_visible()
    visit.get_by_role("button", name="Ask", exact=True).locator("visible=true").click()
    expect(visit.get_by_text("The file is no image of these formats").first).to_be_visible()


@pytest.fixture
def unprepared(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page of this process without an audit of images, and one to make that takes a few seconds."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    whole = IMAGE.experiment
    target = replace(cast(SimCLR, whole.target), width=2, epochs=1, batch=4)
    attacks = {"encodermi-t": Threshold(MeanSimilarity(probe=Views(n=10)))}
    small = replace(whole, split=replace(whole.split, members=8), target=target, attacks=attacks)
    shelf = Shelf(tmp_path / "cache")
    shelf.add("words", run_folder)
    served = blocks.page(shelf, Limits(seconds=240), Embedded("Digits, tiny", small))
    yield blocks.launched(served, Limits(), "127.0.0.1", None, wait=False)
    served.close()


def test_the_embedded_audit_of_images_is_made_on_demand(browser: Browser, unprepared: str) -> None:
    """The button is pressed, leaves with what it made, and an example of it is asked about; the next visitor has it."""
    visitor = opened(browser, unprepared, DESKTOP, "light")
    tab(visitor, "Image")
    prepare = visitor.get_by_role("button", name="Prepare the audit")
    expect(visitor.get_by_role("button", name="Ask", exact=True).locator("visible=true")).to_be_disabled()
    prepare.click()
    expect(prepare).to_be_hidden()
    expect(visitor.get_by_label("Audit", exact=True).locator("visible=true")).to_have_value("Digits, tiny")
    visitor.get_by_role("button", name="An image of the training set").click()
    assert told(visitor)
    assert visitor.locator(".mia-views:visible img").count() == 10
    visitor.context.close()
    later = opened(browser, unprepared, DESKTOP, "light")
    tab(later, "Image")
    expect(later.get_by_label("Audit", exact=True).locator("visible=true")).to_have_value("Digits, tiny")
    expect(later.get_by_role("button", name="Prepare the audit")).to_be_hidden()
    later.context.close()


def test_scores_get_figures_and_a_card(visit: Page, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal(i % 2):.4f},{i % 2}" for i in range(400)]
    (tmp_path / "scores.csv").write_text("\n".join(["score,member", *rows]))
    tab(visit, "Scores")
    visit.locator("input[type=file]").last.set_input_files(str(tmp_path / "scores.csv"))
    expect(visit.get_by_text("scores.csv").first).to_be_visible()
    visit.get_by_role("button", name="Judge").click()
    expect(visit.locator(".mia-table:visible")).to_contain_text("AUC")
    expect(visit.locator(".mia-table:visible")).to_contain_text("200 members, 200 non-members")
    expect(visit.locator(".mia-table:visible")).to_contain_text(
        re.compile("accuracy\\s*n/a")
    )  # an empty threshold is none
    expect(visit.locator(".cm-content:visible")).to_contain_text("## Membership inference")
    shot(visit, "scores-desktop-light")


def test_about_says_what_it_is_not(visit: Page) -> None:
    tab(visit, "About")
    expect(visit.get_by_text("Evidence, not proof.", exact=True)).to_be_visible()
    expect(visit.get_by_text("Not distinguishable” acquits nobody")).to_be_visible()
    shot(visit, "about-desktop-light")


def test_the_keyboard_is_enough(visit: Page) -> None:
    """By Tab alone to the texts, typed, and on to the button, which Enter presses."""
    area = visit.get_by_label("Texts of one user, one a line")
    for _ in range(30):
        visit.keyboard.press("Tab")
        if area.evaluate("area => area === document.activeElement"):
            break
    visit.keyboard.type("w001 w002")
    for _ in range(5):
        visit.keyboard.press("Tab")
        if visit.evaluate("document.activeElement.innerText") == "Ask":
            break
    visit.keyboard.press("Enter")
    assert told(visit)


def test_every_field_has_a_label(visit: Page) -> None:
    for name in ("Text", "Image", "Scores"):
        tab(visit, name)
        for field in visit.locator("input:visible, textarea:visible").all():
            named = field.evaluate(
                "f => !!(f.labels && f.labels.length || f.ariaLabel || f.getAttribute('aria-labelledby'))"
            )
            assert named, field.evaluate("f => f.outerHTML")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_in_light_and_dark_on_a_desk_and_a_phone(
    browser: Browser, address: str, size: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    page = opened(browser, address, size, scheme)
    ask(page, "w001 w002 w003 w004 w005 w006 w007 w008 w009 w010\nw011 unheard w012")
    told(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    dark = page.evaluate("document.body.classList.contains('dark') || !!document.querySelector('.dark')")
    assert dark == (scheme == "dark")
    for word in page.locator(".mia-word:visible, .mia-word small:visible").all():
        assert contrast(word.evaluate(COLOURS)) >= 4.5
    choices = page.locator("input[role=combobox]:visible").all()
    assert len(choices) >= 2
    assert all(choice.evaluate(UNDER) <= 0 for choice in choices)
    shot(page, f"text-{'phone' if size is PHONE else 'desktop'}-{scheme}")
    (tmp_path / "x.png").write_bytes(worlds.noise(1, 3)[0])
    tab(page, "Image")
    page.locator("input[type=file]").first.set_input_files(str(tmp_path / "x.png"))
    expect(page.get_by_text("x.png").first).to_be_visible()
    page.get_by_role("button", name="Ask", exact=True).locator("visible=true").click()
    told(page)
    for name in ("Image", "Scores", "About"):
        tab(page, name)
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        shot(page, f"{name.lower()}-{'phone' if size is PHONE else 'desktop'}-{scheme}")
    page.context.close()


def contrast(pair: list[str]) -> float:
    """The contrast of two colours as WCAG 2.1 defines it, 1 to 21."""
    levels = []
    for colour in pair:
        found = [float(one) / 255 for one in re.findall(r"[\d.]+", colour)[:3]]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in found]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_two_visitors_at_once_get_their_own_answers(browser: Browser, address: str) -> None:
    visitors = [opened(browser, address, DESKTOP, "light") for _ in range(2)]
    texts = ["w010 w011 w012", "w020 w021"]
    for page, text in zip(visitors, texts, strict=True):
        page.get_by_label("Texts of one user, one a line").fill(text)
    for page in visitors:
        page.get_by_role("button", name="Ask", exact=True).click()
    for page, text in zip(visitors, texts, strict=True):
        told(page)
        words = page.locator(".mia-words:visible .mia-word").all()
        assert [word.inner_text().split("\n")[0] for word in words] == text.split()
        page.context.close()
