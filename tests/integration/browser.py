"""The two web pages in a real browser: Debian's Chromium, driven by Playwright, with a picture of every step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
PICTURES = Path(__file__).parents[2] / ".screenshots"
_ARGUMENTS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
STEP_TIMEOUT_MS = 60_000
SETTLE_MS = 1500  # the pages poll for ever, so that none of them is ever idle
RUN_TIMEOUT_MS = 400_000


@contextmanager
def browser(width: int = 1400, height: int = 1300) -> Iterator[Browser]:
    """A new browser profile with one page."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_ARGUMENTS)
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(STEP_TIMEOUT_MS)
        try:
            yield Browser(page)
        finally:
            chromium.close()


class Browser:
    """What a person does with Prefect's page, by the names they read there."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def open(self, address: str) -> None:
        self.page.goto("about:blank")  # an address that differs in its fragment only loads nothing
        self.page.goto(address)
        self.page.wait_for_load_state("load")
        self.page.wait_for_timeout(SETTLE_MS)

    def picture(self, name: str) -> None:
        """Keep what is on the screen as .screenshots/NAME.png, once the page has settled."""
        PICTURES.mkdir(exist_ok=True)
        self.page.wait_for_timeout(SETTLE_MS)
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def field(self, title: str, group: str = "") -> Locator:
        """A form's field by its title, within the group of that title."""
        within: Locator | Page = self.page
        if group:
            within = self._property(self.page, group)
        return self._property(within, title)

    @staticmethod
    def _property(within: Locator | Page, title: str) -> Locator:
        label = f"starts-with(normalize-space(), '{title}')"
        return within.locator(
            f"xpath=.//span[@class='schema-form-property__label' and {label}]"
            "/ancestor::div[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
        ).first

    def fill(self, title: str, text: str, group: str = "") -> None:
        self.field(title, group).locator("textarea, input").first.fill(text)

    def add_items(self, title: str, items: Sequence[str], group: str = "") -> None:
        """Add items to a list."""
        field = self.field(title, group)
        for number, item in enumerate(items):
            field.get_by_role("button", name="Add item").click()
            field.locator("textarea").nth(number).fill(item)

    def choose(self, title: str, option: str, group: str = "") -> None:
        """Take an option of a field with choices."""
        self.field(title, group).locator("button.p-select-button__control").first.focus()
        self.page.keyboard.press("Space")
        self.page.get_by_role("option", name=option, exact=True).click()

    def switch(self, title: str, group: str = "") -> None:
        """Turn a yes-or-no field."""
        self.field(title, group).locator("[role=switch]").first.click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).last.click()

    def submit_run(self) -> str:
        """Submit the form of a run and open that run's page; the run's id."""
        self.press("Submit")
        self.page.wait_for_url(re.compile(r"/deployments/deployment/[^/]+\?tab=Runs"))
        self.page.locator("a[href*='/runs/flow-run/']").first.click()
        self.page.wait_for_url("**/runs/flow-run/**")
        return self.page.url.rpartition("/")[2].split("?")[0]

    def state(self, name: str) -> None:
        """Wait until the run's page shows this state."""
        badge = self.page.locator(".flow-run-state-badge, .state-badge, .p-tag").filter(
            has_text=re.compile(f"^{name}$")
        )
        expect(badge.first).to_be_visible(timeout=RUN_TIMEOUT_MS)

    def tab(self, name: str) -> None:
        tab = self.page.locator(".p-tab, [role=tab]").filter(has_text=re.compile(f"^\\s*{re.escape(name)}\\s*$"))
        tab.first.click()
