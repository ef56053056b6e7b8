// Step 1: clicks and keys that make a support.

import { colour } from "./support.js";
import { Stage, drawsBoxes, loadPicture } from "./stage.js";

const HINTS = {
  points: "Click to place the next point. Drag to correct.",
  edges: "Click two points to join them; again to part them.",
  box: "Drag a box around the object. Without one, a box around the points is used.",
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Editor {
  constructor(support) {
    this.support = support;
    this.stage = new Stage(document.getElementById("support-stage"));
    this.list = document.getElementById("points");
    this.active = -1;
    this.joining = -1;
    this.stage.onresize = () => this.draw();
    support.addEventListener("change", () => this.#changed());
    this.#modes();
    this.#pointer();
    const category = document.getElementById("category");
    category.addEventListener("input", () => support.change(() => { support.category = category.value; }, { quiet: true }));
    document.getElementById("add-point").addEventListener("click", () => this.addInTheMiddle());
    document.getElementById("undo").addEventListener("click", () => support.undo());
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches("input[type=text], input[type=password]");
      if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey) && !typing) {
        event.preventDefault();
        support.undo();
      }
    });
    this.#changed();
  }

  get mode() {
    return document.querySelector("input[name=mode]:checked").value;
  }

  async setPicture(blob) {
    const image = await loadPicture(blob);
    this.support.change(() => {
      this.support.image = image;
      this.support.box = null;
      // Points of another picture lie anywhere in this one: their names stay, to be placed again.
      for (const point of this.support.points) point.x = point.y = null;
    });
    this.active = this.#next();
    this.draw();
  }

  // A point without a place, or a new one, goes to the middle, from where the arrow keys move it.
  addInTheMiddle() {
    const { support } = this;
    const { image } = support;
    let index = -1;
    support.change(() => {
      index = image ? this.#next() : -1;
      if (index < 0) index = support.add();
      if (index >= 0 && image) Object.assign(support.points[index], { x: image.width / 2, y: image.height / 2 });
    });
    if (image) this.focusPoint(index);
    else this.list.children[index]?.querySelector("input").select();
  }

  focusPoint(index) {
    this.stage.svg.querySelector(`[data-index="${index}"]`)?.focus();
  }

  // Index of the first point that has no place yet; -1 for none.
  #next() {
    return this.support.points.findIndex((point) => point.x === null && !point.hidden);
  }

  #modes() {
    const hint = document.getElementById("mode-hint");
    const show = () => {
      hint.textContent = HINTS[this.mode];
      this.joining = -1;
      this.stage.element.classList.toggle("drawing", this.mode === "box");
      this.stage.element.classList.toggle("points-mode", this.mode === "points");
    };
    for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", show);
    show();
  }

  #pointer() {
    const { stage, support } = this;
    drawsBoxes(stage, () => this.mode === "box", (box) => support.change(() => { support.box = box; }));
    stage.element.addEventListener("click", (event) => {
      if (this.mode !== "points" || event.target.closest(".point")) return;
      const { x, y } = stage.position(event);
      let index = -1;
      support.change(() => {
        index = this.#next();
        if (index < 0) index = support.add(x, y);
        else Object.assign(support.points[index], { x, y });
      });
      if (index >= 0) this.#activate(index);
    });
    stage.svg.addEventListener("pointerdown", (event) => {
      const group = event.target.closest(".point");
      if (!group || this.mode !== "points") return;
      event.preventDefault();
      const index = Number(group.dataset.index);
      group.focus();
      let moved = false;
      const move = (motion) => {
        if (!moved) support.remember();
        moved = true;
        Object.assign(support.points[index], stage.position(motion));
        this.draw({ keepFocus: true });
      };
      const up = () => {
        window.removeEventListener("pointermove", move);
        window.removeEventListener("pointerup", up);
        window.removeEventListener("pointercancel", up);
        if (moved) support.changed();
      };
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", up);
      window.addEventListener("pointercancel", up);
    });
    stage.svg.addEventListener("click", (event) => {
      const group = event.target.closest(".point");
      if (group && this.mode === "edges") this.#join(Number(group.dataset.index));
    });
    stage.svg.addEventListener("keydown", (event) => this.#key(event));
    stage.svg.addEventListener("focusin", (event) => {
      const group = event.target.closest(".point");
      if (group) this.#activate(Number(group.dataset.index), { scroll: true });
    });
  }

  #key(event) {
    const group = event.target.closest(".point");
    if (!group || event.ctrlKey || event.metaKey || event.altKey) return;
    const index = Number(group.dataset.index);
    const { support } = this;
    const point = support.points[index];
    const key = event.key.toLowerCase();
    if (ARROWS[event.key]) {
      const step = event.shiftKey ? 10 : 1;
      const [dx, dy] = ARROWS[event.key];
      support.change(() => {
        point.x = Math.min(support.image.width, Math.max(0, point.x + dx * step));
        point.y = Math.min(support.image.height, Math.max(0, point.y + dy * step));
      });
      this.focusPoint(index);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      support.change(() => support.remove(index));
      this.focusPoint(Math.min(index, support.points.length - 1));
    } else if (key === "e" || (event.key === "Enter" && this.mode === "edges")) {
      this.#join(index);
      this.focusPoint(index);
    } else if (key === "h") {
      support.change(() => { point.hidden = true; });
    } else if (event.key === "Enter") {
      this.list.children[index]?.querySelector("input").select();
    } else {
      return;
    }
    event.preventDefault();
  }

  #join(index) {
    if (this.joining < 0 || this.joining === index) {
      this.joining = this.joining === index ? -1 : index;
      this.draw();
      return;
    }
    const from = this.joining;
    this.joining = -1;
    this.support.change(() => this.support.toggleEdge(from, index));
  }

  #activate(index, { scroll = false } = {}) {
    this.active = index;
    for (const [position, item] of [...this.list.children].entries()) item.classList.toggle("active", position === index);
    if (scroll) this.list.children[index]?.scrollIntoView({ block: "nearest" });
  }

  #changed() {
    const { support } = this;
    document.getElementById("support-empty").hidden = Boolean(support.image);
    this.stage.show(support.image);
    document.getElementById("undo").disabled = !support.canUndo;
    const category = document.getElementById("category");
    if (category.value !== support.category) category.value = support.category;
    this.draw();
    this.#rows();
  }

  draw({ keepFocus = false } = {}) {
    const { stage, support } = this;
    if (!support.image) return;
    const focused = stage.svg.contains(document.activeElement) ? document.activeElement.dataset.index : null;
    stage.clear();
    if (support.usedBox) stage.box(support.usedBox, support.box ? "drawn" : "auto");
    const shown = (index) => support.points[index] && support.points[index].x !== null && !support.points[index].hidden;
    for (const [a, b] of support.edges) if (shown(a) && shown(b)) stage.edge(support.points[a], support.points[b]);
    const labels = [];
    support.points.forEach((point, index) => {
      if (!shown(index)) return;
      const group = stage.point(point, colour(index), point.name, { focusable: true });
      group.dataset.index = index;
      group.classList.toggle("joining", index === this.joining);
      labels.push({ at: point, text: point.name });
    });
    stage.labels(labels);
    if (focused !== null && (keepFocus || document.activeElement === document.body)) this.focusPoint(focused);
  }

  // Updates the list in place: whoever types a name keeps the cursor.
  #rows() {
    const { support, list } = this;
    while (list.children.length > support.points.length) list.lastChild.remove();
    support.points.forEach((point, index) => {
      const item = list.children[index] || list.appendChild(this.#row(index));
      item.style.setProperty("--colour", colour(index));
      item.classList.toggle("active", index === this.active);
      const [name, description] = item.querySelectorAll("input");
      if (name.value !== point.name) name.value = point.name;
      if (description.value !== point.description) description.value = point.description;
      description.hidden = !(point.description || item.contains(document.activeElement));
      item.querySelector(".dot").classList.toggle("unplaced", point.x === null || point.hidden);
      item.querySelector(".hide").setAttribute("aria-pressed", String(point.hidden));
    });
  }

  #row(index) {
    const { support } = this;
    const item = document.createElement("li");
    item.innerHTML = `<span class="dot"></span><input type="text" maxlength="200" class="name">
      <button type="button" class="hide" title="Not visible in this picture">hidden</button>
      <button type="button" class="remove" title="Remove">✕</button>
      <input type="text" maxlength="1000" class="description" placeholder="describe it in words (optional)" hidden>`;
    item.querySelector(".dot").textContent = index + 1;
    const [name, description] = item.querySelectorAll("input");
    name.setAttribute("aria-label", `Name of keypoint ${index + 1}`);
    description.setAttribute("aria-label", `Description of keypoint ${index + 1}`);
    item.querySelector(".hide").setAttribute("aria-label", `Keypoint ${index + 1} is not visible in this picture`);
    item.querySelector(".remove").setAttribute("aria-label", `Remove keypoint ${index + 1}`);
    name.addEventListener("input", () => support.change(() => { support.points[index].name = name.value; }, { quiet: true }));
    name.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      const next = list(item, 1);
      if (next) next.querySelector("input").select();
    });
    description.addEventListener("input", () =>
      support.change(() => { support.points[index].description = description.value; }, { quiet: true }));
    item.addEventListener("focusin", () => { description.hidden = false; this.#activate(index); });
    item.addEventListener("focusout", (event) => {
      if (!item.contains(event.relatedTarget)) description.hidden = !support.points[index]?.description;
    });
    item.querySelector(".hide").addEventListener("click", () =>
      support.change(() => { support.points[index].hidden = !support.points[index].hidden; }));
    item.querySelector(".remove").addEventListener("click", () => support.change(() => support.remove(index)));
    return item;
  }
}

const list = (item, offset) => item.parentElement.children[[...item.parentElement.children].indexOf(item) + offset];
