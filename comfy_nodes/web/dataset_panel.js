// A dataset sheet on LoadDataset: what a folder will train as, before anything is queued.
import { addPanel, ask, element, panel, said, setWidget, widgetOf } from "./parts.js";

const HEIGHT = 90;

export function addDatasetPanel(node, { app, api }) {
  const folders = element("select", { title: said(app, "Folders below input", "input 下的文件夹") });
  const look = element("button", { textContent: said(app, "Look at it", "查看") });
  const note = element("div", { class: "ll-note" });
  addPanel(node, "dataset sheet", panel(element("div", { class: "ll-row" }, folders, look), note), HEIGHT);
  note.dataset.loraLoop = "dataset-note";

  const fail = (error) => {
    note.className = "ll-error";
    note.textContent = error.message;
  };
  const tell = (text) => {
    note.className = "ll-note";
    note.textContent = text;
  };
  const refresh = async () => {
    const found = await ask(api, "/lora_loop/folders", {});
    folders.replaceChildren(
      element("option", { value: "", textContent: said(app, "Choose a folder…", "选择文件夹…") }),
      ...found.folders.map((name) => element("option", { value: name, textContent: name })),
    );
  };
  folders.addEventListener("change", () => {
    if (folders.value) setWidget(node, "folder", folders.value);
  });
  look.addEventListener("click", async () => {
    tell(said(app, "reading…", "读取中…"));
    try {
      const found = await ask(api, "/lora_loop/dataset", {
        folder: widgetOf(node, "folder")?.value ?? "",
        resolution: widgetOf(node, "resolution")?.value ?? 0,
      });
      tell(heads(found.text));
      overlay(api, found, said(app, "Close", "关闭"));
      await refresh();
    } catch (error) {
      fail(error);
    }
  });
  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    const report = output?.lora_loop_report?.[0];
    if (report) tell(heads(report));
    return executed?.call(this, output);
  };
  refresh().catch(fail);
}

function heads(report) {
  const lines = report.split("\n").map((line) => line.trim());
  return lines.filter(Boolean).slice(0, 2).join("\n");
}

function overlay(api, found, close) {
  const picture = element("img", { src: api.apiURL(`/view?${new URLSearchParams(found.sheet)}`) });
  picture.style.maxWidth = "100%";
  const button = element("button", { textContent: close });
  const text = element("pre", { textContent: found.text });
  const shade = element(
    "div",
    { class: "ll-overlay" },
    element("div", { class: "ll-scroll" }, picture),
    element("div", { class: "ll-scroll" }, button, text),
  );
  const leave = () => {
    shade.remove();
    document.removeEventListener("keydown", escape);
  };
  const escape = (event) => {
    if (event.key === "Escape") leave();
  };
  button.addEventListener("click", leave);
  shade.addEventListener("click", (event) => event.target === shade && leave());
  document.addEventListener("keydown", escape);
  document.body.append(shade);
}
