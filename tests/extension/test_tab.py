"""The tab is built under whatever gradio is here: 3.41, 4.40 or the current one."""

from dataclasses import replace

import pytest

pytest.importorskip("gradio", reason="no gradio: install the extra `ui`")

import gradio as gr

from lora_loop.extension.fields import all_fields
from lora_loop.extension.gradio_versions import UNCHANGED, known, update
from lora_loop.extension.hosts.standalone import Choices, StandaloneHost
from lora_loop.extension.redraw import Easel
from lora_loop.extension.tab import Tab


def built(desk):
    with gr.Blocks() as page:
        tab = Tab(desk)
    return tab, {block.elem_id: block for block in page.blocks.values() if block.elem_id}


def labels(widgets):
    return [getattr(widget, "label", None) or "" for widget in widgets.values()]


HOSTS = ("preview.host_sampler", "preview.host_scheduler")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_setting_has_its_widget_in_the_users_language(host, desk, language):
    desk.rebind(StandaloneHost(Choices(folders=host.folders(), language=language)))
    _, widgets = built(desk)
    for field in all_fields():
        assert (field.element in widgets) == (field.name not in HOSTS), field.name
    chinese = [label for label in labels(widgets) if any("\u4e00" <= c <= "\u9fff" for c in label)]
    assert bool(chinese) == (language == "zh")


def test_a_host_with_a_loaded_model_offers_no_checkpoint(host, desk, monkeypatch):
    monkeypatch.setattr(host, "checkpoints", lambda: ())
    _, widgets = built(desk)
    assert "lora_loop_base_checkpoint" not in widgets
    assert "lora_loop_base_clip_skip" in widgets


def test_a_host_with_samplers_of_its_own_offers_them(host, desk, recipe, monkeypatch):
    monkeypatch.setattr(host, "samplers", lambda: ("Euler a", "Heun"))
    monkeypatch.setattr(host, "schedulers", lambda: ("Automatic", "Karras"))
    desk.remember(replace(recipe, preview=replace(recipe.preview, host_sampler="Heun")))
    _, widgets = built(desk)
    wanted = {"sampler": ["", "Euler a", "Heun"], "scheduler": ["", "Automatic", "Karras"]}
    for name, choices in wanted.items():
        for place in ("preview", "draw"):  # among all settings, and on the Blocks page
            widget = vars(widgets[f"lora_loop_{place}_host_{name}"])
            # gradio 3 keeps names alone, later ones pairs of a name and a value
            shown = [own if isinstance(own, str) else own[1] for own in widget["choices"]]
            assert shown == choices
            assert widget["value"] == ("Heun" if name == "sampler" else "")


def test_a_new_page_shows_what_was_used_last(desk, recipe):
    desk.remember(replace(recipe, network=replace(recipe.network, rank=7)))
    _, widgets = built(desk)
    shown = {
        name: vars(widget)["value"] for name, widget in widgets.items() if "value" in vars(widget)
    }
    assert shown["lora_loop_network_rank"] == 7
    assert shown["lora_loop_dataset_folder"] == recipe.dataset.folder


def test_no_hidden_spinner_keeps_the_browser_busy(desk):
    with gr.Blocks() as page:
        Tab(desk)
    handlers = page.get_config_file().get("dependencies", [])
    if "show_progress_on" not in handlers[0]:
        pytest.skip("this gradio has spinners on all outputs")
    hidden = [handler for handler in handlers if handler["show_progress"] == "hidden"]
    assert len(hidden) > 100
    assert all(handler["show_progress_on"] == [] for handler in hidden)


def test_the_poll_sends_what_the_page_has_not_seen(desk, recipe, over):
    tab, _ = built(desk)
    strip, view, _, queue, *_, seen = tab._poll(None, "")
    assert 'data-state="idle"' in strip
    assert "lora-loop-empty" in view
    assert queue == ""
    again = tab._poll(seen, "")
    assert again[1:4] == (UNCHANGED, UNCHANGED, UNCHANGED)
    over(desk.board.submit("train", "momo", lambda controls: controls.note("hello")))
    later = tab._poll(seen, "")
    assert 'data-state="done"' in later[0]
    assert "hello" in later[1]
    assert "momo" in later[3]


def test_presets_and_plans_through_the_handlers(desk, recipe):
    tab, _ = built(desk)
    train = tab._train
    shown = train._form.show(recipe)
    line, seen = train._plan("", *shown)
    assert "<b>2</b> steps" in line
    assert train._plan(seen, *shown) == (UNCHANGED, UNCHANGED)
    told, *applied = train._apply_preset("Style", *shown)
    assert "The look of" in told
    kept = zip(applied, shown, strict=True)
    styled = train._form.read([old if new == UNCHANGED else new for new, old in kept], {})
    assert applied.count(UNCHANGED) > len(applied) / 2
    assert (styled.network.rank, styled.network.text_encoder) == (32, False)
    assert styled.dataset == recipe.dataset
    worse = train._form.show(replace(recipe, dataset=replace(recipe.dataset, folder="/no/such")))
    line, _ = train._plan("", *worse)
    assert "lora-loop-bad" in line
    assert "/no/such" in line


def test_what_was_found_is_kept_as_a_tag_a_preset_and_a_recipe(desk, recipe, over):
    tab, _ = built(desk)
    keeping, own = tab._blocks._keeping, tab._blocks._own
    assert keeping.shown("ALL") == ("", "")
    assert over(desk.train(recipe)).error == ""
    tag, name = keeping.shown("NOFACE")  # a name that lora-block-weight does not know
    assert (tag, name) == ("<lora:momo:1:lbw=1,1,1,1,1,1,1,1,0,0,0,1,1,1,1,1,1>", "momo-NOFACE")
    assert keeping.shown("MIDD")[0] == "<lora:momo:1:lbw=MIDD>"
    assert "lbw" not in keeping.shown("M00=1", "old form without names")[0]
    assert ":1:LBW=" in keeping.shown("M00=1", "ComfyUI Inspire pack")[0]
    told, *fields = keeping._trained_again("M00=1", "7", *keeping._form.show(recipe))
    assert "M00" in told
    assert "M00" in fields
    random = "ALL=1, M00=R"
    drawn = Easel(desk).weights(random, 7).ratio("M00")
    assert f",{drawn:g}," in keeping.shown(random, "", "7")[0]
    assert keeping.shown(random, "", "7") != keeping.shown(random, "", "8")
    _, _, _, _, tag, name, *_ = tab._blocks.look("", "MIDD", "", "7")  # that of the field
    assert (tag, name) == ("<lora:momo:1:lbw=MIDD>", "momo-MIDD")
    sliders = dict(zip(tab._blocks._sliders, tab._blocks._spread(random, "7")[2:], strict=True))
    assert sliders["M00"] == drawn
    assert f",{drawn:g}," in tab._blocks._moved("IN04", 5.0, random, "7")[1]
    told, saved, text, _ = own._saved(" MINE ", "M00=1, OUT03=0.5")
    assert "MINE is saved" in told
    assert saved["choices"] in (["MINE"], [("MINE", "MINE")])
    assert text == "MINE:M00=1, OUT03=0.5\n"
    told, *_ = own._taken("A:1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\nB:1,0")
    assert "Left out: line 2" in told
    told, *_ = own._taken("MINE:M00=0.25\n")  # as edited in the field
    assert "Replaced: MINE" in told
    assert desk.presets.presets()["MINE"] == "M00=0.25"
    own._renamed("MINE", "YOURS")
    own._deleted("A")
    assert desk.presets.presets() == {"YOURS": "M00=0.25"}


def test_a_file_of_presets_that_cannot_be_read_leaves_the_page_whole(desk):
    desk.presets.path.parent.mkdir(parents=True, exist_ok=True)
    desk.presets.path.write_bytes("柔和:1,0".encode("gbk"))
    tab, _ = built(desk)
    assert "UTF-8" in tab._blocks._own._told.value
    assert str(desk.presets.path) in tab._blocks._own._told.value
    assert "NOFACE" in Easel(desk).preset_names()


def test_options_that_a_version_does_not_know_are_left_out():
    def make(label, *, scale=None):
        return label, scale

    assert known(make, label="x", colour="red") == {"label": "x"}

    class Wrapped:
        def __init__(self, event):
            self.replaced_event = event

        def __call__(self, *args, **kwargs):
            return self.replaced_event(*args, **kwargs)

    def then(*args, _js=None, **kwargs):
        return args, _js, kwargs

    assert known(Wrapped(make), label="x", colour="red") == {"label": "x"}
    assert known(Wrapped(Wrapped(make)), label="x", colour="red") == {"label": "x"}
    assert known(then, js="x", _js="x", queue=False, colour="red") == {"js": "x", "queue": False}
    assert update(value=1)["value"] == 1
