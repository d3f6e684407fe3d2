// The parts of the page: a loss chart, a panel of block sliders, a dataset sheet.
// Each is added only where this frontend has what it needs; without it the nodes work as they are.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addLossChart } from "./loss_chart.js";
import { addBlockPanel } from "./block_panel.js";
import { addDatasetPanel } from "./dataset_panel.js";

const PARTS = {
  LoraLoopTrainLoRA: addLossChart,
  LoraLoopBlockWeightPreview: addBlockPanel,
  LoraLoopLoadDataset: addDatasetPanel,
};

app.registerExtension({
  name: "LoraLoop",
  nodeCreated(node) {
    const add = PARTS[node.comfyClass ?? node.type];
    if (!add || typeof node.addDOMWidget !== "function") return;
    try {
      add(node, { app, api });
    } catch (error) {
      console.warn("LoRA Loop: a part of the page could not be added", error);
    }
  },
});
