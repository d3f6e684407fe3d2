// A live loss chart on TrainLoRA: raw values pale, smoothed ones strong, the rate below.
import { addPanel, element, listen, panel, said } from "./parts.js";

const HEIGHT = 190;
const COLOURS = { raw: "#5a7fb5", smooth: "#8fc1ff", rate: "#e0913a", line: "#8884", text: "#aaa" };

export function addLossChart(node, { app, api }) {
  const run = { steps: 0, losses: [], rates: [] };
  const canvas = element("canvas", {});
  canvas.style.cssText = "width: 100%; flex: 1; min-height: 0";
  const note = element("div", { class: "ll-note" });
  note.textContent = said(app, "The loss appears here while training.", "训练时此处显示损失曲线。");
  addPanel(node, "loss chart", panel(canvas, note), HEIGHT);
  canvas.dataset.loraLoop = "loss-chart";
  const draw = () => drawChart(canvas, run);
  if (typeof ResizeObserver === "function") new ResizeObserver(draw).observe(canvas);

  listen(node, api, "lora_loop.train", (message) => {
    if (message.fresh) Object.assign(run, { steps: message.steps, losses: [], rates: [] });
    if (message.losses) {
      run.steps = message.steps;
      message.losses.forEach((loss, place) => {
        run.losses[message.first - 1 + place] = loss;
        run.rates[message.first - 1 + place] = message.rates[place];
      });
    }
    canvas.dataset.points = String(run.losses.length);
    note.textContent = told(app, run);
    draw();
  });

  const executed = node.onExecuted;
  node.onExecuted = function (output) {
    const report = output?.lora_loop_report?.[0];
    if (report) {
      note.textContent = report.split("\n")[0];
      note.title = report;
    }
    return executed?.call(this, output);
  };
}

function told(app, run) {
  const last = run.losses.at(-1);
  if (last === undefined) return said(app, `${run.steps} steps`, `共 ${run.steps} 步`);
  const [done, all, loss] = [run.losses.length, run.steps, last.toFixed(4)];
  return said(
    app,
    `step ${done} of ${all}, loss ${loss}`,
    `第 ${done} / ${all} 步，损失 ${loss}`,
  );
}

export function smoothed(values) {
  // averages over about a twentieth of all values, without a slow start
  const decay = 1 - 1 / Math.min(Math.max(5, values.length / 20), 500);
  let total = 0;
  let weight = 0;
  return values.map((value) => {
    if (Number.isFinite(value)) {
      total = decay * total + (1 - decay) * value;
      weight = decay * weight + (1 - decay);
    }
    return weight > 0 ? total / weight : NaN;
  });
}

function drawChart(canvas, run) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const losses = Array.from(run.losses, (value) => value ?? NaN);
  const rates = Array.from(run.rates, (value) => value ?? NaN);
  const finite = losses.filter(Number.isFinite).sort((a, b) => a - b);
  if (!finite.length) return;
  // single spikes are cut at the upper edge
  const top = finite[Math.floor(0.98 * (finite.length - 1))] * 1.1 || 1;
  const split = height - 34;
  const x = (step) => 36 + (step / Math.max(1, run.steps - 1)) * (width - 44);
  const y = (value) => split - Math.min(Math.max(value / top, 0), 1) * (split - 8);
  pen.font = "10px sans-serif";
  for (const share of [0, 0.5, 1]) {
    pen.fillStyle = COLOURS.text;
    pen.fillText((top * share).toPrecision(2), 2, y(top * share) + 3);
    line(pen, [[36, y(top * share)], [width - 8, y(top * share)]], COLOURS.line, 1);
  }
  line(pen, points(losses, x, y), COLOURS.raw, 1);
  line(pen, points(smoothed(losses), x, y), COLOURS.smooth, 2);
  const most = Math.max(...rates.filter(Number.isFinite), 1e-12);
  line(pen, points(rates, x, (rate) => height - 4 - (rate / most) * 22), COLOURS.rate, 1.5);
  pen.fillStyle = COLOURS.rate;
  pen.fillText("lr", 2, height - 6);
}

function points(values, x, y) {
  return values.map((value, step) => [x(step), Number.isFinite(value) ? y(value) : NaN]);
}

function line(pen, path, colour, width) {
  pen.beginPath();
  let down = false;
  for (const [x, y] of path) {
    const there = Number.isFinite(y);
    if (there) pen[down ? "lineTo" : "moveTo"](x, y);
    down = there;
  }
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.stroke();
}
