"""A headless chromium of this machine, and what a user does on the page; run by hand, it takes the README's picture.

python -m rag_jax.serve --workdir=runs/demo --index=2016=runs/demo/index --index=2018=runs/demo/index_2018
python tests/serving/browser.py http://127.0.0.1:7860 2018 "Who is the President of France?" docs/page.png
"""

import shutil
import sys
from contextlib import contextmanager
from urllib.parse import urlsplit

NAMES = "chromium", "chromium-browser", "google-chrome"
PATIENCE = 300_000  # ms; the first page of a browser on a busy machine takes its time


def chromium():
    """The browser's path, None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class User:
    """Somebody with the page before them."""

    def __init__(self, page, where):
        self.page, self.hosts, self.errors = page, set(), []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(where)
        page.locator("#question textarea").wait_for()

    def ask(self, question, then):
        """Asks, and waits until the page says so: words of what it then says."""
        self.page.locator("#question textarea").fill(question)
        self.page.locator("#ask").click()
        self._wait_for(then)

    def choose(self, group, label, then):
        """Clicks one of several; the question is asked again."""
        self.page.locator(f"#{group} label", has_text=label).click()
        self._wait_for(then)

    def read(self, k):
        """Says how many passages are read from the next question on."""
        self.page.locator("#k input[type=number]").fill(str(k))

    def shown(self, part):
        """The text of a part of the answer, as `.said`."""
        return self.page.locator(f"#answer {part}").inner_text()

    def all_shown(self, part):
        return self.page.locator(f"#answer {part}").all_inner_texts()

    def _wait_for(self, words):
        self.page.locator("#answer .rag", has_text=words).wait_for()


@contextmanager
def users():
    """Makes users of what is served at an address, each with a window of their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: it asks for rights that containers lack, and only our own page is opened.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield lambda where: User(browser.new_page(viewport={"width": 1000, "height": 700}), where)
        browser.close()


def picture(where, index, question, path):
    """Asks, chooses an index, and takes a picture of the page."""
    with users() as another:
        user = another(where)
        user.ask(question, "probability")
        user.choose("index", index, f"of index {index}")
        user.page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    picture(*sys.argv[1:])
