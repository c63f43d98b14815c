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

    def ask(self, question):
        self.page.locator("#question textarea").fill(question)
        self._wait_for_change(self.page.locator("#ask").click)

    def choose(self, group, label):
        """Clicks one of several; the question is asked again."""
        self._wait_for_change(self.page.locator(f"#{group} label", has_text=label).click)

    def shown(self, part):
        """The text of a part of the answer, as `.said`."""
        return self.page.locator(f"#answer {part}").inner_text()

    def all_shown(self, part):
        return self.page.locator(f"#answer {part}").all_inner_texts()

    def _wait_for_change(self, action):
        """Until the answer is another than it was: what is said about it names the settings."""
        before = self.page.locator("#answer").inner_html()
        action()
        changed = (
            "before => document.querySelector('#answer .rag') && document.querySelector('#answer').innerHTML != before"
        )
        self.page.wait_for_function(changed, arg=before)
        self.page.wait_for_load_state("networkidle")


@contextmanager
def users(where):
    """Makes users, each with a window of their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # No sandbox: it asks for rights that containers lack, and only our own page is opened.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield lambda: User(browser.new_page(viewport={"width": 1000, "height": 700}), where)
        browser.close()


def picture(where, index, question, path):
    """Asks, chooses an index, and takes a picture of the page."""
    with users(where) as another:
        user = another()
        user.ask(question)
        user.choose("index", index)
        user.page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
    picture(*sys.argv[1:])
