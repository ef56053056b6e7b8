// Step 2: query pictures, their answers, and what is drawn of them.

import * as api from "./api.js";
import { colour } from "./support.js";
import { Stage, drawsBoxes, loadPicture, svg } from "./stage.js";

const element = (id) => document.getElementById(id);

export class Queries extends EventTarget {
  constructor(support) {
    super();
    this.support = support;
    this.stage = new Stage(element("query-stage"));
    this.stage.onresize = () => this.draw();
    this.items = []; // {image, boxes, answer, problem}
    this.current = -1;
    this.hovered = -1;
    this.model = "";
    this.run = null;
    support.addEventListener("change", () => this.#changed());
    for (const radio of document.querySelectorAll("input[name=modality]")) {
      radio.addEventListener("change", () => this.estimate());
    }
    element("threshold").addEventListener("input", () => this.draw());
    element("labels").addEventListener("change", () => this.draw());
    this.#boxes();
    this.stage.svg.addEventListener("pointerover", (event) => this.#hover(event));
    this.stage.svg.addEventListener("pointerleave", () => this.hover(-1));
  }

  get modality() {
    return document.querySelector("input[name=modality]:checked").value;
  }

  get item() {
    return this.items[this.current] || null;
  }

  async add(files) {
    for (const file of files) {
      const image = await loadPicture(file, file.name);
      this.items.push({ image, boxes: [], answer: null, problem: "" });
    }
    this.select(this.items.length - files.length);
    await this.estimate({ only: this.items.slice(-files.length) });
  }

  clear() {
    for (const item of this.items) URL.revokeObjectURL(item.image.url);
    this.items = [];
    this.select(-1);
  }

  select(index) {
    this.current = Math.min(index, this.items.length - 1);
    this.hovered = -1;
    this.#thumbs();
    this.draw();
  }

  #changed() {
    clearTimeout(this.waiting);
    for (const item of this.items) item.old = true;
    this.waiting = setTimeout(() => this.estimate(), 350);
  }

  // Asks for the keypoints of all pictures, the one in view first; a newer call ends an older one.
  async estimate({ only = this.items } = {}) {
    const { support, modality } = this;
    if (!only.length || !support.ready(modality)) {
      for (const item of only) item.answer = null;
      this.draw();
      return;
    }
    this.run?.abort();
    const run = new AbortController();
    this.run = run;
    element("busy").hidden = false;
    const todo = [...new Set([...only, ...this.items.filter((item) => item.old)])];
    todo.sort((a, b) => Number(b === this.item) - Number(a === this.item));
    for (const item of todo) item.old = true;
    for (const item of todo) {
      const started = performance.now();
      try {
        item.answer = await api.estimate({
          image: item.image.blob, support: support.message(modality), supportImage: support.imageBlob(modality),
          boxes: item.boxes, model: this.model, maps: this.hasMaps !== false, signal: run.signal,
        });
        item.seconds = (performance.now() - started) / 1000;
        item.problem = "";
        item.old = false;
      } catch (error) {
        if (error.name === "AbortError") return;
        item.answer = null;
        item.old = false;
        item.problem = error.message;
      }
      if (this.run !== run) return;
      if (item === this.item) this.draw();
      this.dispatchEvent(new Event("answer"));
    }
    element("busy").hidden = true;
  }

  get threshold() {
    return Number(element("threshold").value) / 100;
  }

  draw() {
    const { stage, item, support } = this;
    element("threshold-value").textContent = `${element("threshold").value} %`;
    element("query-empty").hidden = Boolean(item);
    element("clear-boxes").disabled = !item?.boxes.length;
    element("problem").hidden = !item?.problem;
    element("problem").textContent = item?.problem || "";
    stage.show(item?.image);
    stage.clear();
    if (item) {
      item.boxes.forEach((box, index) => this.#drawBox(box, index));
      const labels = [];
      (item.answer?.instances || []).forEach((instance, number) => {
        if (!item.boxes.length && instance.boxFound) stage.box(instance.box, "found");
        this.#drawInstance(instance, number, labels);
      });
      if (element("labels").checked) stage.labels(labels);
    }
    this.#found(item);
    this.#scores(item?.answer);
    this.hover(this.hovered);
    element("hover-hint").hidden = !item?.answer?.instances.some((one) => one.keypoints.some((k) => k.similarityMap));
    void support;
  }

  #drawInstance(instance, number, labels) {
    const shown = (index) => {
      const keypoint = instance.keypoints[index];
      return keypoint?.located && keypoint.score >= this.threshold;
    };
    for (const [a, b] of this.support.edges) {
      if (shown(a) && shown(b)) this.stage.edge(instance.keypoints[a], instance.keypoints[b]);
    }
    instance.keypoints.forEach((keypoint, index) => {
      if (!shown(index)) return;
      const group = this.stage.point(keypoint, colour(index), keypoint.name);
      Object.assign(group.dataset, { keypoint: index, instance: number });
      const title = svg("title", {}, group);
      title.textContent = `${keypoint.name}: ${percent(keypoint.score)}`;
      labels.push({ at: keypoint, text: keypoint.name });
    });
  }

  #found(item) {
    const instance = item?.answer?.instances[0];
    const said = element("found");
    said.hidden = !(instance?.boxFound && !item.boxes.length);
    if (said.hidden) return;
    const sure = instance.boxConfidence;
    said.textContent = sure >= 0.5
      ? `The object was found by itself (dashed box, ${percent(sure)} sure).`
      : `The object was searched for, without much certainty (${percent(sure)}). Draw a box around it for a better answer.`;
  }

  #scores(answer) {
    const list = element("scores");
    const instance = answer?.instances[0];
    list.replaceChildren(...(instance?.keypoints || []).map((keypoint, index) => {
      const row = document.createElement("li");
      row.style.setProperty("--colour", colour(index));
      row.classList.toggle("low", !keypoint.located || keypoint.score < this.threshold);
      row.tabIndex = 0;
      row.innerHTML = `<span class="dot"></span><span class="name"></span><span class="meter"><i></i></span><span class="value"></span>`;
      row.querySelector(".dot").textContent = index + 1;
      row.querySelector(".name").textContent = keypoint.name;
      row.querySelector("i").style.width = percent(keypoint.score);
      row.querySelector(".value").textContent = keypoint.located ? percent(keypoint.score) : "–";
      for (const event of ["pointerenter", "focus"]) row.addEventListener(event, () => this.hover(index));
      for (const event of ["pointerleave", "blur"]) row.addEventListener(event, () => this.hover(-1));
      return row;
    }));
  }

  #hover(event) {
    const group = event.target.closest(".point");
    if (group) this.hover(Number(group.dataset.keypoint), Number(group.dataset.instance));
    else this.hover(-1);
  }

  // Shows where the model looked for a keypoint.
  hover(index, number = 0) {
    this.hovered = index;
    const instance = this.item?.answer?.instances[number];
    this.stage.heatmap(instance?.keypoints[index]?.similarityMap, instance?.box);
    for (const [position, row] of [...element("scores").children].entries()) row.classList.toggle("active", position === index);
    for (const group of this.stage.svg.querySelectorAll(".point")) {
      group.classList.toggle("active", Number(group.dataset.keypoint) === index);
    }
  }

  #thumbs() {
    element("thumbs").replaceChildren(...this.items.map((item, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("role", "option");
      button.setAttribute("aria-selected", String(index === this.current));
      button.title = item.image.name;
      const image = button.appendChild(document.createElement("img"));
      image.src = item.image.url;
      image.alt = item.image.name;
      button.addEventListener("click", () => this.select(index));
      return button;
    }));
    element("thumbs").hidden = this.items.length < 2;
  }

  #boxes() {
    const toggle = element("draw-box");
    toggle.addEventListener("click", (event) => {
      const on = toggle.getAttribute("aria-pressed") !== "true";
      this.#drawing(on);
      // Pressed with a key: no pointer is at hand, so there is a box in the middle to begin with.
      if (on && event.detail === 0 && this.item) {
        const { width, height } = this.item.image;
        this.#changeBoxes(() => this.item.boxes.push({ x: width / 4, y: height / 4, width: width / 2, height: height / 2 }));
        this.#drawing(false);
        this.stage.svg.querySelector(`[data-box="${this.item.boxes.length - 1}"]`)?.focus();
      }
    });
    const active = (event) => Boolean(this.item) &&
      (toggle.getAttribute("aria-pressed") === "true" || event.pointerType === "mouse") && !event.target.closest("[data-box]:focus");
    drawsBoxes(this.stage, active, (box) => {
      this.#changeBoxes(() => this.item.boxes.push(box));
      this.#drawing(false);
    });
    element("clear-boxes").addEventListener("click", () => this.#changeBoxes(() => { this.item.boxes = []; }));
    this.stage.svg.addEventListener("keydown", (event) => this.#boxKey(event));
  }

  #drawing(on) {
    element("draw-box").setAttribute("aria-pressed", String(on));
    this.stage.element.classList.toggle("drawing", on);
  }

  #drawBox(box, index) {
    const rect = this.stage.box(box);
    rect.setAttribute("tabindex", "0");
    rect.setAttribute("role", "button");
    rect.setAttribute("aria-label", `Box ${index + 1}: arrow keys move it, with Shift they resize it, Delete removes it`);
    rect.dataset.box = index;
  }

  #boxKey(event) {
    const index = Number(event.target.dataset?.box ?? -1);
    const box = this.item?.boxes[index];
    if (!box) return;
    const step = Math.max(1, Math.round(this.item.image.width / 100));
    const change = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (change) {
      const [x, y] = event.shiftKey ? ["width", "height"] : ["x", "y"];
      this.#changeBoxes(() => {
        box[x] = event.shiftKey ? Math.max(step, box[x] + change[0]) : box[x] + change[0];
        box[y] = event.shiftKey ? Math.max(step, box[y] + change[1]) : box[y] + change[1];
      });
    } else if (event.key === "Delete" || event.key === "Backspace") {
      this.#changeBoxes(() => this.item.boxes.splice(index, 1));
    } else {
      return;
    }
    event.preventDefault();
    this.stage.svg.querySelector(`[data-box="${index}"]`)?.focus();
  }

  #changeBoxes(change) {
    const { item } = this;
    change();
    item.answer = null;
    this.draw();
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.estimate({ only: [item] }), 150);
  }
}

export const percent = (value) => `${Math.round(100 * value)} %`;
