"""Looks at the status page as a person would, with a real Chromium: page_app.py CHROMIUM URL [PICTURE].

With a picture's name it only makes that.
"""

import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

CALL = {"jsonrpc": "2.0", "id": 1, "method": "py.told"}
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


def contrast(page, selector):
    """Return the contrast of an element's text with what is behind it, as WCAG counts it."""
    return page.evaluate(
        """selector => {
            const rgb = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
            const light = c => { const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                                 return .2126 * r + .7152 * g + .0722 * b; };
            const element = document.querySelector(selector);
            let behind = element;
            while (behind.parentElement && /, 0\\)$|^transparent$/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
            const [a, b] = [light(rgb(getComputedStyle(element).color)), light(rgb(getComputedStyle(behind).backgroundColor))];
            return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        }""",
        selector,
    )


def open_page(browser, url, complaints, **options):
    page = browser.new_context(**options).new_page()
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("dialog", lambda d: (complaints.append("a dialog: " + d.message), d.dismiss()))
    page.on("request", lambda r: complaints.append("a request to " + r.url) if not r.url.startswith((url, "data:")) else None)
    page.goto(url)
    return page


def requests_of(page, worker):
    """Return the cell that says how many requests a worker has answered."""
    row = page.locator("#workers + .wide tr").filter(has=page.get_by_role("rowheader", name=worker, exact=True))
    return row.locator(":scope > :nth-child(5)")


def check(browser, url):
    complaints = []
    for scheme in ("light", "dark"):
        for size in (WIDE, NARROW):
            page = open_page(browser, url, complaints, color_scheme=scheme, viewport=size)
            assert page.get_by_role("heading", name="Ringmaster").is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "the page is wider than the window"
            row = page.get_by_role("table").first.get_by_role("row").filter(has=page.get_by_role("rowheader", name="py", exact=True))
            assert row.get_by_role("cell", name="ready", exact=True).is_visible()
            for selector in ("h1", "header p", "td.ready", "td.bad", "dt", "thead th", "footer p", "footer a"):
                assert contrast(page, selector) >= 4.5, f"{scheme}: {selector} has too little contrast"
            assert page.get_by_text("<img src=x onerror=alert(1)>").first.is_visible(), "a hostile name is not shown as it is"
            assert page.locator("img").count() == 0
            page.context.close()

    page = open_page(browser, url, complaints, viewport=WIDE)
    region = page.get_by_role("region", name="Workers")
    region.focus()
    cell = requests_of(page, "py/0")
    before = cell.inner_text()
    page.request.post(url + "rpc", data=CALL)
    expect(cell).not_to_have_text(before, timeout=15_000)
    assert page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "workers", "renewing it took the focus away"
    page.get_by_role("link", name="stop that").click()
    assert page.get_by_role("link", name="have it renew itself").is_visible()
    assert page.locator("script").count() == 0
    page.get_by_role("link", name="/healthz").click()
    assert '"ok":true' in page.content()
    page.context.close()

    page = open_page(browser, url, complaints, java_script_enabled=False, viewport=WIDE)
    cell = requests_of(page, "py/0")
    before = cell.inner_text()
    page.request.post(url + "rpc", data=CALL)
    expect(cell).not_to_have_text(before, timeout=15_000)  # without scripts the whole page is loaded anew
    page.context.close()
    assert not complaints, complaints


def main():
    chromium, url = sys.argv[1:3]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium)
        try:
            if len(sys.argv) > 3:
                page = open_page(browser, url + "?refresh=off", [], viewport={"width": 1180, "height": 850}, color_scheme="dark")
                page.screenshot(path=Path(sys.argv[3]))
            else:
                check(browser, url)
        finally:
            browser.close()
    print("all good")


main()
