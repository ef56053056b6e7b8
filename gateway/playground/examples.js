// Supports to begin with: the examples that come with capeserve, and those saved on the server.

import * as api from "./api.js";
import { loadPicture } from "./stage.js";

export async function fetchPicture(path, name) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${name} cannot be loaded`);
  return new File([await response.blob()], name);
}

// A support annotation (docs/annotations.md), as the editor holds it.
export async function fromAnnotation(annotation) {
  const points = annotation.keypoints.map((one) => (typeof one === "string" ? { name: one, description: "" } : { description: "", ...one }));
  const index = new Map(points.map((point, position) => [point.name, position]));
  const shot = annotation.examples[0];
  const placed = points.map((point, position) => {
    const at = Array.isArray(shot.keypoints) ? shot.keypoints[position] : shot.keypoints[point.name];
    const hidden = !at || at[2] === false;
    return { ...point, x: hidden ? null : at[0], y: hidden ? null : at[1], hidden };
  });
  const [x, y, width, height] = shot.box || [];
  return {
    category: annotation.category || "", points: placed,
    edges: (annotation.skeleton || []).map((edge) => edge.map((end) => (typeof end === "string" ? index.get(end) : end))),
    box: shot.box ? { x, y, width, height } : null,
    image: await loadPicture(await fetchPicture(`examples/${shot.image}`, shot.image)),
  };
}

// A registered support (cape.v1.Support), as the editor holds it.
export async function fromServer(name) {
  const support = await api.readSupport(name);
  const [example] = support.examples;
  let image = null;
  if (example?.image?.encoded) {
    const bytes = Uint8Array.from(atob(example.image.encoded), (character) => character.charCodeAt(0));
    image = await loadPicture(new Blob([bytes]), "support");
  }
  return {
    category: support.category,
    points: support.keypoints.map((keypoint, index) => {
      const at = example?.keypoints[index];
      const placed = image && at && !at.hidden;
      return { name: keypoint.name, description: keypoint.description, x: placed ? at.x : null, y: placed ? at.y : null,
        hidden: Boolean(at?.hidden) };
    }),
    edges: support.skeleton.map(({ start, end }) => [start, end]),
    box: example?.box || null, image,
  };
}
