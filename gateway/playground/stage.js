// A picture with drawings over it, fitted into its box. Coordinates are pixels of the upright picture.

const SVG = "http://www.w3.org/2000/svg";
const BOX_PADDING = 1.25; // side of the model's crop ÷ longer side of the box, as in cape.geometry

export function svg(name, attributes = {}, parent = null) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

export class Stage {
  constructor(element, { maxHeight = 0.58 } = {}) {
    this.element = element;
    this.maxHeight = maxHeight;
    this.picture = element.querySelector("video") || element.appendChild(document.createElement("img"));
    this.picture.draggable = false;
    this.heat = element.appendChild(document.createElement("canvas"));
    this.svg = svg("svg", {}, element);
    this.width = this.height = 0;
    this.onresize = () => {};
    new ResizeObserver(() => { if (this.#fit()) this.onresize(); }).observe(element.parentElement);
  }

  show(image) {
    this.element.hidden = !image;
    this.heat.classList.remove("on");
    if (!image) return;
    if (this.picture.src !== image.url) this.picture.src = image.url;
    this.picture.alt = image.name || "";
    this.resize(image.width, image.height);
  }

  resize(width, height) {
    [this.width, this.height] = [width, height];
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#fit();
  }

  #fit() {
    const box = this.element.parentElement;
    if (!this.width || !box.clientWidth) return false;
    const scale = Math.min(box.clientWidth / this.width, (window.innerHeight * this.maxHeight) / this.height);
    this.scale = scale;
    this.element.style.width = `${this.width * scale}px`;
    this.element.style.height = `${this.height * scale}px`;
    return true;
  }

  // Length in image pixels of `pixels` on the screen.
  screen(pixels) {
    return pixels / (this.scale || 1);
  }

  position(event) {
    const area = this.element.getBoundingClientRect();
    return {
      x: Math.min(this.width, Math.max(0, ((event.clientX - area.left) / area.width) * this.width)),
      y: Math.min(this.height, Math.max(0, ((event.clientY - area.top) / area.height) * this.height)),
    };
  }

  clear() {
    this.svg.replaceChildren();
  }

  edge(a, b) {
    svg("line", { class: "edge", x1: a.x, y1: a.y, x2: b.x, y2: b.y, "stroke-width": this.screen(2.5) }, this.svg);
  }

  box(box, kind = "") {
    return svg("rect", { class: `box ${kind}`, ...box, "stroke-width": this.screen(2) }, this.svg);
  }

  point(at, colour, label, { focusable = false } = {}) {
    const group = svg("g", { class: "point", transform: `translate(${at.x} ${at.y})` }, this.svg);
    group.style.setProperty("--colour", colour);
    if (focusable) {
      group.setAttribute("tabindex", "0");
      group.setAttribute("role", "button");
      group.setAttribute("aria-label", `${label}, ${Math.round(at.x)}, ${Math.round(at.y)}`);
      svg("circle", { class: "reach", r: this.screen(18) }, group);
    } else {
      svg("circle", { class: "reach", r: this.screen(12) }, group);
    }
    svg("circle", { class: "ring", r: this.screen(6.5), "stroke-width": this.screen(2) }, group);
    return group;
  }

  // Writes labels beside their points so that none covers another; those without room are left out.
  labels(entries) {
    const size = this.screen(12);
    const taken = entries.map(({ at }) => ({ x: at.x - size / 2, y: at.y - size / 2, width: size, height: size }));
    for (const { at, text } of entries) {
      const width = text.length * size * 0.56;
      const gap = this.screen(10);
      const places = [
        [at.x + gap, at.y - size * 0.6], [at.x - gap - width, at.y - size * 0.6],
        [at.x - width / 2, at.y - gap - size * 1.1], [at.x - width / 2, at.y + gap],
        [at.x + gap, at.y + size * 0.5], [at.x - gap - width, at.y + size * 0.5],
        [at.x + gap, at.y - size * 1.7], [at.x - gap - width, at.y - size * 1.7],
      ].map(([x, y]) => ({ x, y, width, height: size * 1.15 }));
      const place = places.find((area) => area.x >= 0 && area.y >= 0 && area.x + width <= this.width &&
        area.y + area.height <= this.height && !taken.some((other) => overlap(area, other)));
      if (!place) continue;
      taken.push(place);
      const tag = svg("text", { class: "tag", x: place.x, y: place.y + size * 0.92, "font-size": size,
        "stroke-width": size / 4.5 }, this.svg);
      tag.textContent = text;
    }
  }

  // Lays a similarity map over the crop of a box.
  heatmap(map, box) {
    if (!map || !box) {
      this.heat.classList.remove("on");
      return;
    }
    const { width, height, values } = map;
    [this.heat.width, this.heat.height] = [width, height];
    const low = Math.min(...values);
    const range = Math.max(...values) - low || 1;
    const context = this.heat.getContext("2d");
    const pixels = context.createImageData(width, height);
    values.forEach((value, index) => {
      const strength = (value - low) / range;
      pixels.data.set([255, 60 + 190 * strength, 40 * (1 - strength), 235 * strength ** 3], index * 4);
    });
    context.putImageData(pixels, 0, 0);
    const side = Math.max(box.width, box.height) * BOX_PADDING;
    const percent = (value, whole) => `${(100 * value) / whole}%`;
    Object.assign(this.heat.style, {
      left: percent(box.x + box.width / 2 - side / 2, this.width),
      top: percent(box.y + box.height / 2 - side / 2, this.height),
      width: percent(side, this.width),
      height: percent(side, this.height),
    });
    this.heat.classList.add("on");
  }
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}

// Lets a pointer draw rectangles while `active()`; calls back with each box and while it is drawn.
export function drawsBoxes(stage, active, done) {
  let start = null;
  let rect = null;
  stage.element.addEventListener("pointerdown", (event) => {
    if (!active(event) || event.button !== 0) return;
    start = stage.position(event);
    stage.element.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  stage.element.addEventListener("pointermove", (event) => {
    if (!start) return;
    const box = between(start, stage.position(event));
    rect = rect || stage.box(box);
    for (const [key, value] of Object.entries(box)) rect.setAttribute(key, value);
  });
  const finish = (event) => {
    if (!start) return;
    const box = between(start, stage.position(event));
    start = null;
    rect?.remove();
    rect = null;
    if (box.width > stage.screen(8) && box.height > stage.screen(8)) done(box);
  };
  stage.element.addEventListener("pointerup", finish);
  stage.element.addEventListener("pointercancel", () => { start = null; rect?.remove(); rect = null; });
}

function between(a, b) {
  return { x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), width: Math.abs(a.x - b.x), height: Math.abs(a.y - b.y) };
}

// Reads a picture: its size is that of the upright picture, as the server counts.
export async function loadPicture(blob, name = blob.name || "picture") {
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`${name} cannot be shown: use a JPEG, PNG, WebP or BMP picture.`);
  }
  return { blob, url, name, width: image.naturalWidth, height: image.naturalHeight };
}

// Makes an element take dropped and pasted pictures.
export function takesPictures(element, take) {
  element.addEventListener("dragover", (event) => { event.preventDefault(); element.classList.add("over"); });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) take(files);
  });
}
