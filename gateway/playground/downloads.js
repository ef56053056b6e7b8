// Files to take away: support annotations (YAML, COCO) and answers (COCO results, JSON).

export function save(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const fileName = (support, ending) =>
  `${support.category.trim().toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "support"}${ending}`;

const round = (value) => Math.round(value * 100) / 100;
const rectangle = (box) => [box.x, box.y, box.width, box.height].map(round);
const placed = (point) => point.x !== null && !point.hidden;

// The support as docs/annotations.md describes it. A JSON string is a YAML string, so names need no other quoting.
export function supportYaml(support) {
  const text = JSON.stringify;
  const lines = [`category: ${text(support.category.trim() || "object")}`, "keypoints:"];
  for (const point of support.points) {
    if (point.description) lines.push(`  - name: ${text(point.name)}`, `    description: ${text(point.description)}`);
    else lines.push(`  - ${text(point.name)}`);
  }
  if (support.edges.length) {
    lines.push("skeleton:");
    for (const [a, b] of support.edges) lines.push(`  - [${text(support.points[a].name)}, ${text(support.points[b].name)}]`);
  }
  if (support.image && support.points.some(placed)) {
    lines.push("examples:", `  - image: ${text(support.image.name)}  # keep the picture beside this file`);
    if (support.usedBox) lines.push(`    box: [${rectangle(support.usedBox).join(", ")}]`);
    lines.push("    keypoints:");
    for (const point of support.points.filter(placed)) {
      lines.push(`      ${text(point.name)}: [${round(point.x)}, ${round(point.y)}]`);
    }
  }
  return `${lines.join("\n")}\n`;
}

function category(support) {
  return {
    id: 1, name: support.category.trim() || "object", supercategory: "",
    keypoints: support.points.map((point) => point.name),
    skeleton: support.edges.map(([a, b]) => [a + 1, b + 1]),
  };
}

// The support's picture as a COCO keypoint data set.
export function supportCoco(support) {
  const { image } = support;
  const box = support.usedBox || { x: 0, y: 0, width: image.width, height: image.height };
  const keypoints = support.points.flatMap((point) => (placed(point) ? [round(point.x), round(point.y), 2] : [0, 0, 0]));
  return {
    images: [{ id: 1, file_name: image.name, width: image.width, height: image.height }],
    categories: [category(support)],
    annotations: [{
      id: 1, image_id: 1, category_id: 1, keypoints, num_keypoints: support.points.filter(placed).length,
      bbox: rectangle(box), area: round(box.width * box.height), iscrowd: 0,
    }],
  };
}

// Answers as COCO keypoint results. `file_name` and `keypoint_scores` are beyond the format; readers ignore them.
export function cocoResults(items) {
  return items.flatMap((item, index) => (item.answer?.instances || []).map((instance) => {
    const scores = instance.keypoints.map((keypoint) => (keypoint.located ? keypoint.score : 0));
    return {
      image_id: index + 1, file_name: item.image.name, category_id: 1,
      keypoints: instance.keypoints.flatMap((keypoint) =>
        keypoint.located ? [round(keypoint.x), round(keypoint.y), 2] : [0, 0, 0]),
      score: scores.reduce((sum, score) => sum + score, 0) / Math.max(1, scores.length),
      keypoint_scores: scores, bbox: rectangle(instance.box),
    };
  }));
}

// Answers as the API gives them, without similarity maps.
export function answersJson(items) {
  return items.filter((item) => item.answer).map((item) => ({
    file: item.image.name, ...item.answer,
    instances: item.answer.instances.map((instance) => ({
      ...instance, keypoints: instance.keypoints.map(({ similarityMap, ...keypoint }) => keypoint),
    })),
  }));
}
