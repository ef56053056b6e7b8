// Calls the REST API of this gateway.

const TOKEN = "capeserve.token";

export class Problem extends Error {
  // A failed call: `content` holds the problem details (RFC 9457).
  constructor(content) {
    const where = (content.errors || []).map((error) => `${error.field}: ${error.detail}`).join("; ");
    super(where || content.detail || content.title);
    this.content = content;
  }
}

export const token = () => sessionStorage.getItem(TOKEN) || "";

export function setToken(value) {
  if (value) sessionStorage.setItem(TOKEN, value);
  else sessionStorage.removeItem(TOKEN);
}

export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let response;
  try {
    // "./", because "v1:estimatePose" alone reads like a URL with a scheme of its own.
    response = await fetch(`./${path}`, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The gateway does not answer. Is it still running?" });
  }
  let content = null;
  try {
    content = await response.json();
  } catch {
    // Answered below.
  }
  if (!response.ok) throw new Problem(content || { title: `${response.status} ${response.statusText}` });
  return content;
}

export async function models() {
  return (await call("v1/models?pageSize=1000")).models;
}

export async function supports() {
  const found = [];
  let page = "";
  do {
    const answer = await call(`v1/supports?pageSize=1000&pageToken=${encodeURIComponent(page)}`);
    found.push(...answer.supports);
    page = answer.nextPageToken;
  } while (page);
  return found;
}

export const readSupport = async (name) => (await call(`v1/${name}?view=SUPPORT_VIEW_FULL`)).support;

export async function createSupport(message, image) {
  const form = new FormData();
  form.append("request", JSON.stringify(message));
  if (image) form.append("examples[0].image", image, image.name || "support");
  return call("v1/supports", { method: "POST", body: form });
}

export async function estimate({ image, support, supportImage, boxes, model, maps, signal }) {
  const request = { inlineSupport: support, boxes, model, options: { includeSimilarityMaps: maps, findBox: !boxes.length } };
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  form.append("image", image, image.name || "query");
  if (supportImage) form.append("inlineSupport.examples[0].image", supportImage, supportImage.name || "support");
  return call("v1:estimatePose", { method: "POST", body: form, signal });
}

export const performance = async () => (await call("v1/performanceReport")).models;
