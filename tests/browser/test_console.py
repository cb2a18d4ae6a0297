"""The console page before the real thing: servers, a dispatcher with keys, two workers with simulated GPUs."""

import json
import re
import secrets
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import grave_violations, opened
from tests.support.system import System, running_system, until

KEY = "a-key-of-an-operator"
CATALOGUE = """
[[model]]
name = "team/small"
runtime = "synthetic"
vram_gib = 2
options = { load_s = 0.3, exec_s = 0.05 }

[[model]]
name = "large"
runtime = "synthetic"
vram_gib = 15
options = { load_s = 3.0, exec_s = 0.1 }

[[model]]
name = "rival"
runtime = "synthetic"
vram_gib = 15
options = { load_s = 0.5, exec_s = 0.1 }
"""


@pytest.fixture(scope="module")
def system(rabbitmq_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("console")
    (folder / "catalogue.toml").write_text(CATALOGUE)
    settings = {"MODELS_CATALOG": str(folder / "catalogue.toml"), "AFFINITY_API_KEYS": KEY}
    with running_system(rabbitmq_url, redis_url, f"t{secrets.token_hex(6)}", folder, **settings) as running:
        let_in(running)
        running.start_worker("w1")
        running.start_worker("w2")
        yield running


@pytest.fixture
def page(browser: Browser, system: System) -> Iterator[Page]:
    """The console, with the key given."""
    with opened(browser, str(system.http.base_url)) as page:
        give_key(page, KEY)
        expect(page.locator(".gpu")).to_have_count(2)
        yield page


def let_in(system: System) -> None:
    system.http.headers["Authorization"] = f"Bearer {KEY}"


def give_key(page: Page, key: str) -> None:
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def sure(page: Page, button: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=button).click()


def said(page: Page, text: str) -> None:
    expect(page.locator("#said")).to_contain_text(text)


def test_the_page_is_open_what_it_shows_is_not_and_the_key_stays_in_its_tab(browser: Browser, system: System):
    with opened(browser, str(system.http.base_url)) as page:
        give_key(page, "not-the-key")
        expect(page.get_by_role("dialog")).to_contain_text("not known")
        assert page.locator(".gpu").count() == 0
        give_key(page, KEY)
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator(".gpu")).to_have_count(2)
        expect(page.locator("#link-text")).to_have_text("live")
        kept = page.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]")
        assert kept == [{"affinity.key": KEY}, {}, ""]
        page.reload()
        expect(page.locator(".gpu")).to_have_count(2)
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("dialog")).to_be_visible()


def test_a_model_arrives_with_the_plans_reason_and_its_job_tells_where_the_time_went(page: Page, system: System):
    first = str(system.post("large", {"exec_s": 4.0}).json()["id"])
    move = page.locator(".move", has_text="large")
    expect(move).to_contain_text(re.compile(r"w[12] loads large"))
    expect(move.locator(".why")).to_have_text(re.compile(r"\w{3,}"))
    second = str(system.post("large", {}).json()["id"])
    expect(page.get_by_role("img", name=re.compile("large 15.0 GiB, ready"))).to_be_visible()
    row = page.locator(".catalogue tbody tr", has_text="large")
    expect(row).to_contain_text(re.compile(r"w[12]"))

    page.locator(f".jobs a[title='{second}']").click()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    expect(page.locator(".explain")).to_contain_text(re.compile("(Serve|Wait|Load).*", re.S))
    expect(page.locator(".explain tbody tr")).to_have_count(2)
    expect(page.locator(".explain")).to_contain_text("1 of 1")
    page.emulate_media(color_scheme="dark")
    assert grave_violations(page) == []

    page.goto(f"{system.http.base_url}/#/jobs/{first}")
    expect(page.locator(".states")).to_contain_text("succeeded")
    expect(page.locator(".story li")).to_have_count(3)
    expect(page.locator(".story li").nth(1)).to_contain_text(re.compile(r"Started on w[12], attempt 1"))
    expect(page.locator(".explain .lead")).to_contain_text("was loaded for it")
    load = page.locator(".spans [data-phase=load] dd")
    expect(load).to_have_text(re.compile(r"^3\.\d s$"))
    assert grave_violations(page) == []


def test_an_operator_drains_loads_pins_cancels_and_puts_back(page: Page, system: System):
    page.get_by_role("link", name="w1", exact=True).first.click()
    page.get_by_role("button", name="Drain w1").click()
    sure(page, "Drain")
    said(page, "w1 takes no more work")
    expect(page.locator(".head .tag")).to_have_text("draining")
    until(lambda: system.fleet()["w1"]["draining"], "it is drained")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".gpu", has_text="w1").locator(".tag")).to_have_text("draining")
    expect(page.locator(".past")).to_contain_text("w1 is empty")
    page.goto(f"{system.http.base_url}/#/workers/w1")
    page.get_by_role("button", name="Undrain w1").click()
    said(page, "w1 takes work again")
    expect(page.locator(".head .tag")).to_have_text("idle")

    page.goto(f"{system.http.base_url}/#/models/{'team/small'.replace('/', '%2F')}")
    page.get_by_label("On", exact=True).select_option("w1")
    page.get_by_role("button", name="Load team/small", exact=True).click()
    said(page, "team/small is to be loaded on w1")
    until(lambda: "team/small" in system.residents("w1"), "it is loaded")
    page.get_by_role("button", name="Pin team/small", exact=True).click()
    said(page, "pinned on w1")
    page.get_by_role("button", name="Unload team/small").click()
    sure(page, "Unload")
    said(page, "pinned")
    page.get_by_role("button", name="Unpin team/small").click()
    said(page, "is not pinned")
    page.get_by_role("button", name="Unload team/small").click()
    sure(page, "Unload")
    until(lambda: "team/small" not in system.residents("w1"), "it has left")

    job = str(system.post("rival", {"exec_s": 60.0}).json()["id"])
    page.goto(f"{system.http.base_url}/#/jobs/{job}")
    page.get_by_role("button", name="Cancel this job").click()
    sure(page, "Cancel the job")
    expect(page.locator(".states")).to_contain_text("cancelled")

    failed = str(system.run("team/small", {"fail": "error"})["id"])
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_label(f"Choose {failed}").check()
    page.get_by_role("button", name="Put back 1 chosen").click()
    said(page, "1 is put back")
    until(lambda: system.job(failed).get("lives"), "it runs again")


def test_when_the_dispatcher_dies_the_page_says_so_and_mends_itself_when_it_is_back(page: Page, system: System):
    names = page.get_by_label("Filter models by name")
    names.fill("team")
    dispatcher = next(child for child in reversed(system.started) if child.name == "dispatcher")
    dispatcher.kill()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.locator("main[data-stale]")).to_have_count(1)
    expect(page.locator(".gpu")).to_have_count(2)
    port = system.http.base_url.port
    system._start("dispatcher", {"DISPATCHER_PORT": str(port)})
    expect(page.get_by_role("alert")).to_be_empty(timeout=40_000)
    expect(page.locator("main[data-stale]")).to_have_count(0)
    expect(page.locator("#link-text")).to_have_text("live")
    expect(names).to_be_focused()
    expect(names).to_have_value("team")
    let_in(system)
    job = str(system.run("team/small", {"n": 1})["id"])
    expect(page.locator(f".jobs a[title='{job}']")).to_be_visible()
    assert KEY not in json.dumps(page.evaluate("[location.href, document.documentElement.outerHTML]"))
