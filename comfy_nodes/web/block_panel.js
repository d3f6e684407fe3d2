// Sliders for each block on BlockWeightPreview: they write the vector of `chosen`.
import { addPanel, ask, element, listen, panel, said, setWidget, widgetOf } from "./parts.js";

const HEIGHT = 260;
const FAMILIES = { sd1: "SD 1.x", sd2: "SD 2.x", sdxl: "SDXL" };

export function addBlockPanel(node, { app, api }) {
  const state = { family: "sd1", orders: {}, presets: {}, order: [], values: {}, silent: false };
  const family = element("select", {}, ...options(FAMILIES));
  const length = element("select", { title: said(app, "Blocks of the vector", "向量包含的层") });
  const preset = element("select", { title: said(app, "Set all sliders", "设置所有滑块") });
  const copy = element("button", { textContent: said(app, "Copy vector", "复制向量") });
  const add = element("button", { textContent: said(app, "Add column", "添加一列") });
  const redraw = element("button", { textContent: said(app, "Redraw", "重新绘制") });
  redraw.title = said(app, "Draw again with the same seed", "用相同种子重新绘制");
  const sliders = element("div", { class: "ll-sliders" });
  const note = element("div", { class: "ll-note" });
  const row = element("div", { class: "ll-row" }, family, length, preset, copy, add, redraw);
  addPanel(node, "block sliders", panel(row, sliders, note), HEIGHT);
  sliders.dataset.loraLoop = "block-sliders";

  const tell = (error) => {
    note.textContent = error.message;
  };
  const vector = () => state.order.map((block) => short(state.values[block] ?? 0)).join(",");
  const write = () => {
    state.silent = true;
    setWidget(node, "chosen", vector());
    state.silent = false;
  };
  const show = () => {
    sliders.replaceChildren(...state.order.map((block) => slider(state, block, write)));
  };
  const take = (blocks) => {
    state.values = { ...blocks };
    show();
  };
  const read = async () => {
    const text = widgetOf(node, "chosen")?.value ?? "ALL";
    const seed = String(widgetOf(node, "preview_seed")?.value ?? 1);
    const found = await ask(api, "/lora_loop/vector", { text, seed, family: state.family });
    note.textContent = "";
    take(found.blocks);
  };
  const load = async (wanted) => {
    const found = await ask(api, "/lora_loop/blocks", { family: wanted });
    Object.assign(state, { family: wanted, orders: found.orders, presets: found.presets });
    family.value = wanted;
    const lengths = Object.keys(found.orders);
    const titles = lengths.map((count) => [count, said(app, `${count} blocks`, `${count} 层`)]);
    length.replaceChildren(...options(Object.fromEntries(titles)));
    state.order = found.orders[lengths[0]];
    const names = Object.keys(found.presets).map((name) => [name, name]);
    preset.replaceChildren(
      element("option", { value: "", textContent: said(app, "Preset…", "预设…") }),
      ...options(Object.fromEntries(names)),
    );
    await read();
  };

  family.addEventListener("change", () => load(family.value).catch(tell));
  length.addEventListener("change", () => {
    state.order = state.orders[length.value];
    show();
    write();
  });
  preset.addEventListener("change", () => {
    if (preset.value) setWidget(node, "chosen", preset.value);
    preset.value = "";
  });
  copy.addEventListener("click", async () => {
    note.textContent = vector();
    await navigator.clipboard?.writeText?.(vector());
  });
  add.addEventListener("click", () => {
    const lines = String(widgetOf(node, "presets")?.value ?? "").trim();
    setWidget(node, "presets", `${lines}\n${widgetOf(node, "chosen")?.value ?? ""}`.trim());
  });
  redraw.addEventListener("click", () => app.queuePrompt(0, 1));
  followChosen(node, () => state.silent || read().catch(tell));
  listen(node, api, "lora_loop.blocks", (message) => {
    if (message.family === state.family) take(message.blocks);
    else load(message.family).catch(tell);
  });
  load("sd1").catch(tell);
}

function slider(state, block, write) {
  const value = state.values[block] ?? 0;
  const output = element("output", { textContent: short(value) });
  const input = element("input", { type: "range", min: -1, max: 2, step: 0.05, title: block });
  input.value = value;
  input.dataset.block = block;
  const set = (changed) => {
    state.values[block] = changed;
    output.textContent = short(changed);
    write();
  };
  input.addEventListener("input", () => set(Number(input.value)));
  input.addEventListener("dblclick", () => {
    input.value = 1;
    set(1);
  });
  const name = element("span", { textContent: block.replace("BASE", "TE") });
  return element("label", { class: "ll-slider" }, output, input, name);
}

function followChosen(node, changed) {
  const chosen = widgetOf(node, "chosen");
  if (chosen) {
    const callback = chosen.callback;
    chosen.callback = function (...rest) {
      changed();
      return callback?.apply(this, rest);
    };
  }
  const configured = node.onConfigure;
  node.onConfigure = function (...rest) {
    const result = configured?.apply(this, rest);
    changed();
    return result;
  };
}

function short(value) {
  return String(Number(value.toFixed(3)));
}

function options(titles) {
  return Object.entries(titles).map(([value, textContent]) =>
    element("option", { value, textContent }),
  );
}
