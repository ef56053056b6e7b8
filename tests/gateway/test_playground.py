"""The playground's whole story in a real headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from cape.annotations import read_support
from cape.coco import read_coco
from tests.gateway.conftest import EXAMPLES

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)

SCREENSHOTS = Path(os.environ.get("CAPESERVE_SCREENSHOTS", "build/screenshots"))

# Drops a file of the page's own origin as a person does.
DROP = """
const [target, path, name, done] = arguments;
fetch(path).then((answer) => answer.blob()).then((blob) => {
  const data = new DataTransfer();
  data.items.add(new File([blob], name, {type: "image/jpeg"}));
  document.getElementById(target).dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
  done();
});
"""


class Page:
    """The playground in a browser."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        self.driver = driver
        self.downloads = downloads

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 30, 0.05).until(lambda _: condition())

    def wait_answer(self) -> None:
        self.wait(lambda: not self.find("#busy").is_displayed() and self.all("#query-stage .point"))

    def drop(self, target: str, name: str) -> None:
        self.driver.execute_async_script(DROP, target, f"examples/{name}", name)

    def click_at(self, x: float, y: float, stage: str = "#support-stage") -> None:
        """Clicks on a pixel of the picture."""
        svg = self.find(f"{stage} > svg")
        width, height = (float(part) for part in svg.get_dom_attribute("viewBox").split()[2:])
        size = svg.size
        offset = ((x / width - 0.5) * size["width"], (y / height - 0.5) * size["height"])
        ActionChains(self.driver).move_to_element_with_offset(svg, round(offset[0]), round(offset[1])).click().perform()

    def downloaded(self, button: str, name: str) -> Path:
        self.find(button).click()
        path = self.downloads / name
        self.wait(path.exists)
        return path

    def photograph(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{name}.png"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[webdriver.Chrome, Path]]:
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1250", "--hide-scrollbars",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    ):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(20)
    yield driver, downloads
    driver.quit()


@pytest.fixture
def page(browser: tuple[webdriver.Chrome, Path], gateway: str) -> Iterator[Page]:
    driver, downloads = browser
    for path in downloads.iterdir():
        path.unlink()
    driver.get(f"{gateway}/")
    page = Page(driver, downloads)
    page.wait(lambda: "connected" in page.find("#status").text)
    page.wait(lambda: page.all("#try-examples button"))
    yield page
    # A page that works says nothing in the console; a rejected call is listed there by the browser itself.
    assert [line for line in driver.get_log("browser") if "status of 4" not in line["message"]] == []


def test_a_dropped_image_becomes_a_support_an_answer_and_files(page: Page, gateway: str) -> None:
    page.drop("support-drop", "chelsea.jpg")
    page.wait(lambda: page.find("#support-stage").is_displayed())
    for x, y in ((314, 131), (173, 110), (267, 240)):
        page.click_at(x, y)
    assert len(page.all("#support-stage .point")) == 3
    for row, name in zip(page.all("#points .name"), ("left eye", "right eye", "nose"), strict=True):
        row.clear()
        row.send_keys(name)
    page.find("#category").send_keys("cat")
    # Two edges, with the mouse and with the keyboard.
    page.find("input[value=edges]").click()
    points = page.all("#support-stage .point")
    points[0].click()
    page.all("#support-stage .point")[2].click()
    page.driver.execute_script("arguments[0].focus()", page.all("#support-stage .point")[1])
    page.driver.switch_to.active_element.send_keys("e")
    page.driver.execute_script("arguments[0].focus()", page.all("#support-stage .point")[2])
    page.driver.switch_to.active_element.send_keys("e")
    assert len(page.all("#support-stage .edge")) == 2
    page.drop("query-drop", "raccoon.jpg")
    page.wait_answer()
    assert [row.find_element(By.CSS_SELECTOR, ".name").text for row in page.all("#scores li")] == [
        "left eye", "right eye", "nose",
    ]  # fmt: skip
    ActionChains(page.driver).move_to_element(page.all("#scores li")[0]).perform()
    page.wait(lambda: "on" in page.find("#query-stage canvas").get_attribute("class").split())
    page.wait(lambda: page.find("#report").is_displayed())
    assert "flf" in page.find("#report tbody").text
    page.photograph("own_images")

    shutil.copy(EXAMPLES / "chelsea.jpg", page.downloads)
    support = read_support(page.downloaded("#download-yaml", "cat.yaml"))
    assert (support.category, support.names) == ("cat", ("left eye", "right eye", "nose"))
    assert sorted(map(sorted, support.skeleton)) == [[0, 2], [1, 2]]
    assert support.examples[0].keypoints.tolist()[0] == pytest.approx([314, 131], abs=2)
    coco = read_coco(page.downloaded("#download-coco", "cat-coco.json"), images=EXAMPLES)
    assert coco.support("cat", shots=1, skeleton_base=1).names == support.names
    results = json.loads(page.downloaded("#download-results", "cat-results.json").read_text())
    assert len(results[0]["keypoints"]) == 9 and results[0]["file_name"] == "raccoon.jpg"

    page.find("#save").click()
    page.wait(lambda: page.find("#saved code"))
    name = page.find("#saved code").text
    assert name.startswith("supports/")
    page.find("#clear").click()
    page.driver.execute_script(
        "const s = document.getElementById('examples'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
        name,
    )
    page.wait(lambda: len(page.all("#support-stage .point")) == 3)
    assert page.find("#category").get_attribute("value") == "cat"


def test_an_example_is_answered_at_once_and_the_threshold_hides_points(page: Page) -> None:
    page.all("#try-examples button")[0].click()
    page.wait_answer()
    before = len(page.all("#query-stage .point"))
    slider = page.find("#threshold")
    slider.send_keys(Keys.END)
    assert len(page.all("#query-stage .point")) == 0 < before
    slider.send_keys(Keys.HOME)
    # The tiny model needs both: what it cannot do is not offered, and says why.
    for radio in page.all("input[name=modality]"):
        if radio.get_attribute("value") != "both":
            assert not radio.is_enabled()
            assert "needs the other" in radio.find_element(By.XPATH, "..").get_attribute("title")


def test_a_box_is_drawn_moved_by_keys_and_used(page: Page) -> None:
    page.all("#try-examples button")[1].click()
    page.wait_answer()
    stage = page.find("#query-stage > svg")
    ActionChains(page.driver).move_to_element_with_offset(stage, -100, -100).click_and_hold().move_by_offset(
        200, 180
    ).release().perform()
    page.wait(lambda: page.all("#query-stage [data-box]"))
    x = float(page.find("#query-stage [data-box]").get_attribute("x"))

    def moved_by_key() -> bool:
        # The stage is drawn again with every answer, which replaces the focused box.
        try:
            page.driver.execute_script("arguments[0].focus()", page.find("#query-stage [data-box]"))
            page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
            return float(page.find("#query-stage [data-box]").get_attribute("x")) > x
        except StaleElementReferenceException:
            return False

    page.wait(moved_by_key)
    page.wait_answer()
    page.find("#clear-boxes").click()
    page.wait_answer()


def test_points_are_dragged_moved_by_keys_hidden_and_undone(page: Page) -> None:
    page.drop("support-drop", "chelsea.jpg")
    page.wait(lambda: page.find("#support-stage").is_displayed())
    page.click_at(200, 150)

    def place() -> str:
        return page.find("#support-stage .point").get_attribute("transform")

    before = place()
    ActionChains(page.driver).drag_and_drop_by_offset(page.find("#support-stage .point"), 40, 30).perform()
    page.wait(lambda: place() != before)
    dragged = place()
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    page.wait(lambda: place() != dragged)
    page.driver.switch_to.active_element.send_keys("h")
    page.wait(lambda: not page.all("#support-stage .point"))
    for expected in (dragged, before):
        page.find("#undo").click()
        if expected == dragged:
            page.find("#undo").click()
        page.wait(lambda expected=expected: place() == expected)


def test_keypoints_follow_the_camera(page: Page) -> None:
    page.all("#try-examples button")[0].click()
    page.wait_answer()
    page.find("#threshold").send_keys(Keys.HOME)
    page.find("#camera").click()
    page.wait(lambda: page.all("#camera-stage .point"))
    page.find("#camera-take").click()
    page.wait(lambda: len(page.all("#thumbs button")) == 2)


def test_it_fits_a_phone_and_follows_its_theme(page: Page) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    )
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    page.driver.refresh()
    page.wait(lambda: page.all("#try-examples button"))
    page.driver.execute_script("document.querySelector('#try-examples button').click()")
    page.wait_answer()
    width = page.driver.execute_script("return document.documentElement.scrollWidth")
    theme = page.driver.execute_script("return document.documentElement.dataset.theme")
    page.photograph("phone")
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (width, theme) == (390, "dark")


def test_the_api_page_lists_every_operation(page: Page, gateway: str) -> None:
    page.driver.get(f"{gateway}/api")
    page.wait(lambda: len(page.all("#operations details")) == 11)


def test_the_page_says_when_the_server_is_gone(page: Page, tmp_path: Path) -> None:
    from cape.client import ConnectionOptions
    from gateway.server import running_gateway
    from gateway.settings import GatewaySettings

    nobody = GatewaySettings("127.0.0.1:9", ConnectionOptions(timeout=1.0, attempts=1))
    with running_gateway(nobody) as url:
        page.driver.get(url)
        page.wait(lambda: page.all("#status.bad"))
        page.driver.get("about:blank")
        page.driver.get_log("browser")
