"""The whole loop by clicks on the embedded model."""

import pytest

WORDS = {
    "en": ("Dataset", "Train", "Blocks", "Files", "Quick look", "pictures are ready", "Saved as"),
    "zh": ("数据集", "训练", "分层", "文件", "快速试跑", "已读取", "已保存"),
}
STUDY = {
    "en": ("MINE is saved", "Written:", "asked for"),
    "zh": ("已保存 MINE", "已保存：", "要求"),
}
LONG = 240_000  # milliseconds for a training of 20 steps; a busy machine needs many

pytestmark = pytest.mark.browser


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def fill(page, element, text):
    page.locator(f"#{element}").locator("textarea, input").first.fill(str(text))


def choose(page, element, option):
    page.locator(f"#{element} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def text_of(page, element, words):
    page.locator(f"#{element}").get_by_text(words).first.wait_for(timeout=LONG)


def shot(page, request, name):
    folder = request.config.getoption("--screenshots")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.parametrize(
    ("server", "language"),
    [(("--language", "en"), "en"), (("--language", "zh"), "zh")],
    indirect=["server"],
    ids=["en", "zh"],
)
def test_from_the_pictures_to_a_new_file(page, server, language, request):
    dataset, train, blocks, files, preset, ready, saved = WORDS[language]
    tab(page, dataset)
    page.locator("#lora_loop_example").click()
    text_of(page, "lora_loop_dataset_told", ready)
    page.locator("#lora_loop_sheet img").wait_for()
    shot(page, request, f"{language}-dataset")

    tab(page, train)
    choose(page, "lora_loop_preset", preset)
    page.wait_for_function("document.querySelector('#lora_loop_network_rank input').value === '8'")
    fill(page, "lora_loop_output_name", "momo")
    fill(page, "lora_loop_preview_prompts", "momo on a blue background")
    page.locator("#lora_loop_all button").first.click()
    fill(page, "lora_loop_search", "max_steps")
    page.locator("#lora_loop_memory_precision").wait_for(state="hidden")
    fill(page, "lora_loop_training_max_steps", 20)
    page.keyboard.press("Tab")
    text_of(page, "lora_loop_plan", "20")
    page.locator("#lora_loop_start").click()
    page.locator('#lora_loop_strip [data-kind="train"][data-state="done"]').wait_for(timeout=LONG)
    page.locator("#lora_loop_view svg").wait_for()
    assert (server.networks / "momo.safetensors").is_file()
    assert (
        page.locator(
            "#lora_loop_output_name input, #lora_loop_output_name textarea"
        ).first.input_value()
        == "momo-2"
    )
    shot(page, request, f"{language}-train")

    tab(page, blocks)
    text_of(page, "lora_loop_blocks_about", "momo")
    page.locator("#lora_loop_redraw").click()
    pictures = page.locator(
        "#lora_loop_pictures .thumbnail-lg img, #lora_loop_pictures .grid-wrap img"
    )
    pictures.nth(2).wait_for(timeout=LONG)
    whole = pictures.nth(2).get_attribute("src")
    choose(page, "lora_loop_blocks_preset", "NOFACE")
    page.wait_for_function("document.querySelector('#lora_loop_block_OUT04 input').value === '0'")
    page.wait_for_function(
        "(before) => [...document.querySelectorAll('#lora_loop_pictures img')].length > 2 && "
        "[...document.querySelectorAll('#lora_loop_pictures .grid-wrap img')][2].src !== before",
        arg=whole,
        timeout=LONG,
    )
    page.wait_for_function(
        "document.querySelector('#lora_loop_tag :is(textarea, input)')"
        ".value.includes('lbw=1,1,1,1,1,1,1,1,0,0,0,1')"
    )
    page.locator("#lora_loop_bake").click()
    text_of(page, "lora_loop_kept", saved)
    assert (server.networks / "momo-NOFACE.safetensors").is_file()
    shot(page, request, f"{language}-blocks")

    study_blocks(page, request, language, server.networks)

    tab(page, files)
    page.locator("#lora_loop_refresh").click()
    text_of(page, "lora_loop_facts", "momo-NOFACE")
    unfold(page, "lora_loop_merging")
    fill(page, "lora_loop_tags", "<lora:momo:0.5> <lora:momo-NOFACE:0.5>")
    fill(page, "lora_loop_merge_name", "both")
    page.locator("#lora_loop_merge").click()
    text_of(page, "lora_loop_made", saved)
    assert (server.networks / "both.safetensors").is_file()
    shot(page, request, f"{language}-files")


def unfold(page, element):
    page.locator(f"#{element} > button, #{element} > .label-wrap").first.click()


def study_blocks(page, request, language, networks):
    """Keep a preset, draw a grid over axes, measure the blocks, and have weights suggested."""
    kept, measured, suggested = STUDY[language]
    fill(page, "lora_loop_vector", "M00=1, OUT03-OUT05=0.5")
    unfold(page, "lora_loop_own")
    fill(page, "lora_loop_own_name", "MINE")
    page.locator("#lora_loop_own_save").click()
    text_of(page, "lora_loop_own_told", kept)
    choose(page, "lora_loop_blocks_preset", "MINE")
    page.wait_for_function("document.querySelector('#lora_loop_block_OUT04 input').value === '0.5'")

    unfold(page, "lora_loop_axes")
    fill(page, "lora_loop_entries_x", "0, 1")
    fill(page, "lora_loop_entries_y", "M00, OUT03-OUT05")
    page.locator("#lora_loop_axes_draw").click()
    text_of(page, "lora_loop_axes_told", ".html")
    assert list(networks.glob("momo-grid*.html"))

    unfold(page, "lora_loop_study")
    page.locator("#lora_loop_measure").click()
    text_of(page, "lora_loop_study_told", measured)
    page.locator("#lora_loop_study_chart img").wait_for()
    text_of(page, "lora_loop_study_table", "OUT03")

    unfold(page, "lora_loop_suggestion")
    page.locator("#lora_loop_canvas").click()
    canvas = page.locator("#lora_loop_mask canvas").first
    canvas.wait_for(timeout=LONG)
    page.wait_for_timeout(1500)  # the editor has no sign of having drawn its picture
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 60, y - 40)
    page.mouse.down()
    for step in range(9):
        page.mouse.move(x - 60 + 15 * (step % 2) * 8, y - 40 + 10 * step, steps=8)
    page.mouse.up()
    shot(page, request, f"{language}-painted")
    page.locator("#lora_loop_suggest_seeds input").fill("1")
    page.locator("#lora_loop_suggest").click()
    text_of(page, "lora_loop_suggest_told", suggested)
    page.locator("#lora_loop_suggest_use").click()
    wanted = page.locator("#lora_loop_suggested").locator("textarea, input").first.input_value()
    page.wait_for_function(
        "(wanted) => document.querySelector('#lora_loop_vector textarea').value === wanted",
        arg=wanted,
    )
    shot(page, request, f"{language}-study")
