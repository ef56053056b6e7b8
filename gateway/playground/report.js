// How long the answer took, and the live report beside the paper's row.

import * as api from "./api.js";

const STAGES = [["decode", "#7b8794"], ["prepare", "#9a8c98"], ["support", "#b5838d"], ["backbone", "#5b4be6"], ["decoder", "#17a398"]];
export const seconds = (duration) => parseFloat(duration || "0");
const ms = (value) => `${(1000 * value).toFixed(value < 0.1 ? 1 : 0)} ms`;

export function showTiming(item) {
  const { timing, provenance } = item.answer;
  const cached = provenance.supportCacheHit ? "the example was in the cache" : "the example was encoded first";
  document.getElementById("timing").textContent =
    `${ms(seconds(timing.total))} on the server, ${ms(item.seconds)} in this browser; ${cached}.`;
  const bar = document.getElementById("stages");
  const total = STAGES.reduce((sum, [name]) => sum + seconds(timing[name]), 0) || 1;
  bar.hidden = false;
  bar.replaceChildren(...STAGES.map(([name, colour]) => {
    const part = document.createElement("i");
    const share = seconds(timing[name]) / total;
    part.style.flex = String(Math.max(share, 0.002));
    part.style.background = colour;
    part.title = `${name}: ${ms(seconds(timing[name]))}`;
    part.textContent = share > 0.16 ? `${name} ${ms(seconds(timing[name]))}` : "";
    return part;
  }));
}

export async function showReport() {
  let models;
  try {
    models = await api.performance();
  } catch {
    return;
  }
  const rows = models.filter((model) => Number(model.count) > 0);
  document.getElementById("report").hidden = !rows.length;
  document.querySelector("#report tbody").replaceChildren(...rows.map((model) => {
    const figures = Number(model.warm?.count) ? model.warm : model.cold;
    const row = document.createElement("tr");
    const cells = [
      model.model.replace("models/", ""), ms(seconds(figures.p50)), ms(seconds(figures.p95)),
      model.framesPerSecond.toFixed(1), model.paper ? ms(seconds(model.paper.time)) : "–",
      model.speedRatio ? `${model.speedRatio.toFixed(2)} × as fast` : "–",
    ];
    for (const text of cells) row.appendChild(document.createElement("td")).textContent = text;
    return row;
  }));
}
