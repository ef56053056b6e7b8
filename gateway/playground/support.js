// The support that is being made: what is drawn in step 1, and the message that it becomes.

const NAMES = 100;

export class Support extends EventTarget {
  category = "";
  points = []; // {name, description, x, y, hidden}; x and y are null until the point is placed
  edges = []; // pairs of indices
  box = null; // {x, y, width, height} drawn by the user
  image = null; // {blob, url, width, height}
  #history = [];

  // Runs a change, remembers what was before, and tells listeners.
  change(edit, { quiet = false } = {}) {
    if (!quiet) this.remember();
    edit();
    this.changed();
  }

  remember() {
    this.#history.push(JSON.stringify({ ...this, image: undefined }));
    this.#history.splice(0, this.#history.length - 200);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  get canUndo() {
    return this.#history.length > 0;
  }

  undo() {
    const before = this.#history.pop();
    if (before) Object.assign(this, JSON.parse(before));
    this.changed();
  }

  replace({ category = "", points = [], edges = [], box = null, image = null }) {
    Object.assign(this, { category, points, edges, box, image });
    this.#history = [];
    this.changed();
  }

  add(x = null, y = null) {
    if (this.points.length >= NAMES) return -1;
    let number = this.points.length + 1;
    while (this.points.some((point) => point.name === `keypoint ${number}`)) number += 1;
    this.points.push({ name: `keypoint ${number}`, description: "", x, y, hidden: false });
    return this.points.length - 1;
  }

  remove(index) {
    this.points.splice(index, 1);
    this.edges = this.edges
      .filter((edge) => !edge.includes(index))
      .map((edge) => edge.map((end) => (end > index ? end - 1 : end)));
  }

  toggleEdge(a, b) {
    if (a === b) return;
    const rest = this.edges.filter((edge) => !(edge.includes(a) && edge.includes(b)));
    this.edges = rest.length < this.edges.length ? rest : [...this.edges, [a, b]];
  }

  get placed() {
    return this.points.filter((point) => point.x !== null && !point.hidden);
  }

  // The box that the model sees: the user's, else one around the points with a margin of a fifth of their extent.
  get usedBox() {
    if (this.box || !this.image || this.placed.length < 2) return this.box;
    const xs = this.placed.map((point) => point.x);
    const ys = this.placed.map((point) => point.y);
    const extent = Math.max(Math.max(...xs) - Math.min(...xs), Math.max(...ys) - Math.min(...ys));
    const margin = 0.2 * extent;
    const left = Math.max(0, Math.min(...xs) - margin);
    const top = Math.max(0, Math.min(...ys) - margin);
    const right = Math.min(this.image.width, Math.max(...xs) + margin);
    const bottom = Math.min(this.image.height, Math.max(...ys) + margin);
    return right - left < 2 || bottom - top < 2 ? null : { x: left, y: top, width: right - left, height: bottom - top };
  }

  // Whether there is something to look for, learning from "both", "image" or "text".
  ready(modality) {
    if (!this.points.length) return false;
    const hasImage = Boolean(this.image && this.placed.length);
    return modality === "text" || hasImage || (modality === "both" && this.#named);
  }

  get #named() {
    return this.points.some((point) => point.description || !/^keypoint \d+$/.test(point.name));
  }

  // The cape.v1.Support message as JSON. Its image goes beside it, as a file.
  message(modality = "both") {
    const withImage = modality !== "text" && this.image && this.placed.length;
    // Names that were never given say nothing: the model then learns from the picture alone.
    const used = modality === "both" ? (this.#named ? [] : ["MODALITY_IMAGE"]) : [`MODALITY_${modality.toUpperCase()}`];
    return {
      category: this.category.trim(),
      keypoints: this.points.map((point) => ({ name: point.name.trim(), description: point.description.trim() })),
      skeleton: this.edges.map(([start, end]) => ({ start, end })),
      modalities: used,
      examples: withImage
        ? [{
            ...(this.usedBox ? { box: this.usedBox } : {}),
            keypoints: this.points.map((point) =>
              point.x === null || point.hidden ? { hidden: true } : { x: point.x, y: point.y }),
          }]
        : [],
    };
  }

  imageBlob(modality = "both") {
    return modality !== "text" && this.image && this.placed.length ? this.image.blob : null;
  }
}

export function colour(index) {
  return `hsl(${Math.round((index * 137.508 + 340) % 360)} 78% 52%)`;
}
