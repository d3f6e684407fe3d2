// What the panels share: elements, the node that a message is for, words in the page's language.

const STYLE = `
.ll-panel { display: flex; flex-direction: column; gap: 4px; box-sizing: border-box; width: 100%;
  padding: 6px; font: 12px sans-serif; color: var(--input-text, #ddd); overflow: hidden; }
.ll-panel button, .ll-panel select { font: inherit; color: inherit; cursor: pointer;
  background: var(--comfy-input-bg, #333); border: 1px solid var(--border-color, #555);
  border-radius: 4px; padding: 2px 8px; }
.ll-row { display: flex; gap: 6px; flex-wrap: wrap; align-items: center; }
.ll-note { opacity: 0.75; white-space: pre-wrap; }
.ll-error { color: var(--error-text, #ff6b6b); white-space: pre-wrap; }
.ll-sliders { display: flex; gap: 2px; align-items: stretch; flex: 1; min-height: 120px; }
.ll-slider { display: flex; flex-direction: column; align-items: center; flex: 1; min-width: 0;
  font-size: 9px; }
.ll-slider input { writing-mode: vertical-lr; direction: rtl; width: 14px; flex: 1; min-height: 70px;
  margin: 0; }
.ll-slider output { font-variant-numeric: tabular-nums; }
.ll-slider span { writing-mode: vertical-rl; }
.ll-overlay { position: fixed; inset: 0; z-index: 10000; background: rgba(0, 0, 0, 0.8);
  display: flex; gap: 16px; padding: 24px; box-sizing: border-box; }
.ll-overlay .ll-scroll { overflow: auto; flex: 1; background: #f6f5f2; color: #22252b;
  padding: 12px; }
.ll-overlay pre { font: 12px monospace; margin: 0; white-space: pre; }
`;

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function panel(...children) {
  if (!document.getElementById("ll-style")) {
    document.head.append(element("style", { id: "ll-style", textContent: STYLE }));
  }
  const root = element("div", { class: "ll-panel" }, ...children);
  // dragging a slider must not drag the node
  for (const name of ["pointerdown", "wheel", "dblclick"]) {
    root.addEventListener(name, (event) => event.stopPropagation());
  }
  return root;
}

export function addPanel(node, name, root, height) {
  const widget = node.addDOMWidget(name, "lora_loop", root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getValue: () => undefined,
    setValue: () => {},
  });
  widget.serialize = false;
  const size = node.computeSize?.();
  if (size && node.setSize) {
    node.setSize([Math.max(node.size[0], size[0], 380), Math.max(node.size[1], size[1])]);
  }
  return widget;
}

export function isFor(node, id) {
  // nodes inside of subgraphs are told by the path that leads to them: "12:5"
  return id !== undefined && id !== null && String(id).split(":").pop() === String(node.id);
}

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

export function setWidget(node, name, value) {
  const widget = widgetOf(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
  node.graph?.setDirtyCanvas?.(true, true);
}

export function said(app, english, chinese) {
  const locale = app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? navigator.language;
  return String(locale).startsWith("zh") ? chinese : english;
}

export async function ask(api, path, query) {
  const answer = await api.fetchApi(`${path}?${new URLSearchParams(query)}`);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error ?? answer.statusText);
  return found;
}

export function listen(node, api, event, handler) {
  const own = (message) => {
    if (isFor(node, message.detail?.node)) handler(message.detail);
  };
  api.addEventListener(event, own);
  const removed = node.onRemoved;
  node.onRemoved = function (...rest) {
    api.removeEventListener(event, own);
    return removed?.apply(this, rest);
  };
}
