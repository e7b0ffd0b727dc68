"""The page in a real browser: Chromium without a screen, as a person uses it."""

import asyncio
import gc
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from serve.app import create_app
from serve.settings import Settings
from tests.serve.conftest import Tiny, build
from tests.serve.openapi.conftest import embedder

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
MARKUP = "<img src=x onerror=\"document.title='broken'\">"
KEY = "a-key-of-some-length"
MAX_TEXTS = 5


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    arguments = [*QUIET.split(), "--disable-sync", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


class Serving:
    """An artefact behind uvicorn, in a thread."""

    def __init__(self, root: Any, *, keys: Path | None = None) -> None:
        self.app = create_app(Settings(artefact=str(root), runtime="onnxruntime", max_texts=MAX_TEXTS, keys=keys))
        self.app.warm_up()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self.server = uvicorn.Server(uvicorn.Config(self.app, lifespan="off", log_level="critical"))
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.socket])))
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()
        self.app.close()


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Serving]]:
    """Starts services that end with the module."""
    thresholds, started = gc.get_threshold(), list[Serving]()

    def start(root: Any, *, keys: Path | None = None) -> Serving:
        started.append(Serving(root, keys=keys))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.runtime.costs_of", lambda *_, **__: None)  # measuring is not what is tested
        yield start
    for serving in started:
        serving.close()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture(scope="module")
def single(serve: Callable[..., Serving], tiny: Tiny) -> Serving:
    return serve(tiny.artefact.root)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page; at the end there must be no word in its console, and nobody else asked."""
    opened: list[Page] = []
    said: list[str] = []
    asked: list[str] = []

    def go(url: str, **options: Any) -> Page:
        page = browser.new_page(**options)
        page.set_default_timeout(30_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        opened.append(page)
        page.goto(url)
        expect(page.locator("#loaded dt").first.or_(page.locator("#unlock:visible"))).to_be_visible()
        return page

    yield go
    origins = tuple(page.url for page in opened)
    for page in opened:
        page.close()
    # Chromium itself notes each answer of 400 and above.
    assert [words for words in said if not words.startswith("Failed to load resource")] == []
    assert asked and all(url.startswith((*origins, "data:")) for url in asked), asked


def shot(page: Page, name: str) -> None:
    """A picture for people, where BANTAM_SHOTS names a folder."""
    if folder := os.environ.get("BANTAM_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def rows(page: Page) -> list[tuple[str, float]]:
    lines = page.locator("#scores tbody tr").all()
    return [(line.locator("th").inner_text(), float(line.locator(".score").inner_text())) for line in lines]


def probabilities(tiny: Tiny, text: Any) -> list[float]:
    import torch

    found: list[float] = torch.tensor(tiny.torch_logits([text])[0]).softmax(0).tolist()
    return found


def test_a_person_asks_and_sees_labels_scores_and_times(visit: Any, single: Serving, tiny: Tiny) -> None:
    page = visit(single.url)
    expect(page).to_have_title("Tiny Model · Bantam")
    expect(page.locator("#right")).to_be_hidden()
    page.fill("#left", "a great film, isn't it")
    page.click("#send")
    expect(page.locator("#answer")).to_be_visible()
    expected = sorted(
        zip(("NEG", "POS"), probabilities(tiny, "a great film, isn't it"), strict=True), key=lambda pair: -pair[1]
    )
    found = rows(page)
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=2e-4)
    track = page.locator(".track").first.bounding_box()
    page.wait_for_function("document.getAnimations().length === 0")
    best = page.locator(".bar").first.bounding_box()
    assert best and track and best["width"] / track["width"] == pytest.approx(expected[0][1], abs=0.02)
    names, words = (page.locator(f"#times {kind}").all_inner_texts() for kind in ("dt", "dd"))
    times = dict(zip(names, words, strict=True))
    assert sorted(times) == ["In the model", "In the queue", "In the service", "Round trip", "Tokenising", "Tokens"]
    assert float(times["Round trip"].split()[0]) >= float(times["In the model"].split()[0]) > 0
    loaded = page.locator("#loaded").inner_text()
    assert "onnxruntime" in loaded and "5 at most" in loaded and "24 tokens" in loaded
    curl = page.locator("#curl").inner_text()
    assert f"curl '{single.url}predict'" in curl and "isn'\\''t it" in curl
    shot(page, "light")


def test_a_long_text_is_an_error_until_it_may_be_cut(visit: Any, single: Serving) -> None:
    page = visit(single.url)
    page.fill("#left", "good film " * 30)
    page.click("#send")
    expect(page.locator("#error")).to_contain_text("422: `inputs` must have at most 24 tokens")
    shot(page, "error")
    page.check("#truncate")
    page.click("#send")
    expect(page.locator("#cut")).to_be_visible()
    expect(page.locator("#error")).to_be_hidden()
    assert '"truncate":true' in page.locator("#curl").inner_text()
    page.fill("#left", " ")
    page.click("#send")
    expect(page.locator("#error")).to_contain_text("400: `inputs` cannot be empty")
    expect(page.locator("#answer")).to_be_hidden()


def test_the_keyboard_is_enough(visit: Any, single: Serving) -> None:
    page = visit(single.url)
    page.keyboard.type("so good")  # the field has the focus
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.is_checked("#truncate")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type(" ")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#error")).to_contain_text("cannot be empty")


def test_a_label_that_is_markup_is_shown_as_text(visit: Any, serve: Any, tmp_path: Path) -> None:
    toy = build(tmp_path / "markup", labels=(MARKUP, "<script>alert(1)</script>"))
    page = visit(serve(toy.artefact.root).url)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.fill("#left", MARKUP)
    page.click("#send")
    expect(page.locator("#answer")).to_be_visible()
    assert MARKUP in dict(rows(page))
    assert page.locator("img").count() == 0
    expect(page).to_have_title("Tiny Model · Bantam")
    assert MARKUP in page.locator("#loaded").inner_text()


def test_pairs_have_two_fields_in_the_dark_and_on_a_phone(visit: Any, serve: Any, pairs: Tiny) -> None:
    page = visit(serve(pairs.artefact.root).url, color_scheme="dark", viewport={"width": 400, "height": 800})
    assert page.locator("#left-label").inner_text() == "left"
    page.get_by_label("left").fill("the film was good")
    page.get_by_label("right").fill("it was great")
    page.click("#send")
    expect(page.locator("#answer")).to_be_visible()
    pair = ("the film was good", "it was great")
    wanted = dict(zip(("no", "maybe", "yes"), probabilities(pairs, pair), strict=True))
    assert dict(rows(page)) == pytest.approx(wanted, abs=2e-4)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(22, 22, 21)"
    shot(page, "dark-phone")


def test_vectors_are_compared(visit: Any, serve: Any, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = visit(serve(embedder(tiny, tmp_path_factory)).url)
    page.fill("#left", "a great film")
    page.fill("#right", "a great film")
    page.click("#send")
    expect(page.locator("#answer")).to_be_visible()
    assert rows(page) == [("cosine", 1.0)]
    shot(page, "vectors")


def test_a_value_is_a_number_without_a_bar(visit: Any, serve: Any, regression: Tiny) -> None:
    page = visit(serve(regression.artefact.root).url)
    page.fill("#left", "good")
    page.click("#send")
    expect(page.locator("#answer")).to_be_visible()
    assert rows(page) == [("score", pytest.approx(regression.torch_logits(["good"])[0][0], abs=2e-4))]
    assert page.locator(".track").count() == 0


def test_a_key_is_asked_for_and_kept_in_memory_only(visit: Any, serve: Any, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"person:{KEY}\n", encoding="utf-8")
    page = visit(serve(tiny.artefact.root, keys=tmp_path / "keys").url)
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#error")).to_contain_text("401: the API key is missing or not known")
    shot(page, "key")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_have_text("Tiny Model")
    expect(page.locator("#unlock")).to_be_hidden()
    page.fill("#left", "good")
    page.click("#send")
    expect(page.locator("#answer")).to_be_visible()
    assert KEY not in page.content() and "$API_KEY" in page.locator("#curl").inner_text()
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    assert KEY not in page.evaluate(kept)
    page.reload()
    expect(page.locator("#unlock")).to_be_visible()


def test_the_policy_stops_markup_that_a_script_makes(browser: Browser, single: Serving) -> None:
    page = browser.new_page()
    got = page.goto(single.url)
    assert got and "default-src 'none'" in got.headers["content-security-policy"]
    stopped = "() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } }"
    assert page.evaluate(stopped)
    page.close()
