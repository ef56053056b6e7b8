import * as api from "./api.js";
import { Camera } from "./camera.js";
import { answersJson, cocoResults, fileName, save, supportCoco, supportYaml } from "./downloads.js";
import { Editor } from "./editor.js";
import { fetchPicture, fromAnnotation, fromServer } from "./examples.js";
import { Queries } from "./queries.js";
import { showReport, showTiming } from "./report.js";
import { takesPictures } from "./stage.js";
import { Support } from "./support.js";

const element = (id) => document.getElementById(id);
const support = new Support();
const editor = new Editor(support);
const queries = new Queries(support);
new Camera(support, queries);
let models = [];
let examples = { supports: [], images: [] };

// Shows why something failed where people look.
function tell(error) {
  element("problem").hidden = false;
  element("problem").textContent = error.message;
}

const guarded = (action) => async (...parameters) => {
  try {
    await action(...parameters);
  } catch (error) {
    tell(error);
  }
};

// --- pictures

const takeSupport = guarded(async (files) => {
  await editor.setPicture(files[0]);
  element("saved").textContent = "";
});
const takeQueries = guarded((files) => queries.add(files));
takesPictures(element("support-drop"), takeSupport);
takesPictures(element("query-drop"), takeQueries);
for (const [id, take] of [["support-file", takeSupport], ["query-files", takeQueries]]) {
  element(id).addEventListener("change", (event) => {
    if (event.target.files.length) take([...event.target.files]);
    event.target.value = "";
  });
}
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
  if (files.length) (support.image ? takeQueries : takeSupport)(files);
});
// A picture dropped beside the two areas would replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
element("clear").addEventListener("click", () => { support.replace({}); queries.clear(); element("saved").textContent = ""; });

// --- examples and saved supports

// Loads an example with the other examples of its kind as queries.
const loadExample = guarded(async (annotation) => {
  support.replace(await fromAnnotation(annotation));
  queries.clear();
  const own = annotation.examples[0].image;
  const names = (one) => one.keypoints.map((keypoint) => keypoint.name || keypoint).join();
  const related = examples.supports.filter((one) => names(one) === names(annotation)).map((one) => one.examples[0].image);
  const chosen = related.filter((name) => name !== own);
  await queries.add(await Promise.all(chosen.map((name) => fetchPicture(`examples/${name}`, name))));
});

const loadSaved = guarded(async (name) => support.replace(await fromServer(name)));

async function listExamples() {
  examples = await (await fetch("playground.json")).json();
  element("try-examples").replaceChildren(...examples.supports.map((annotation) => {
    const button = document.createElement("button");
    button.type = "button";
    const image = button.appendChild(document.createElement("img"));
    [image.src, image.alt] = [`examples/${annotation.examples[0].image}`, ""];
    const name = annotation.file.replace(/\.ya?ml$/, "").replaceAll("_", " ");
    button.append(name === annotation.category ? name : `${name}: ${annotation.category}`);
    button.addEventListener("click", () => loadExample(annotation));
    return button;
  }));
  element("docs-link").hidden = !examples.documentation;
  await listSaved();
}

async function listSaved() {
  let saved = [];
  try {
    saved = await api.supports();
  } catch {
    // The status line says what is wrong with the server.
  }
  const groups = [["Examples", examples.supports.map((one) => [`example:${one.file}`, `${one.category} (${one.file})`])],
    ["Saved on the server", saved.map((one) => [one.name, `${one.category || "object"}, ${one.keypoints.length} points`])]];
  const select = element("examples");
  select.replaceChildren(new Option("load an example…", ""));
  for (const [label, options] of groups.filter(([, options]) => options.length)) {
    const group = select.appendChild(document.createElement("optgroup"));
    group.label = label;
    group.append(...options.map(([value, text]) => new Option(text, value)));
  }
}

element("examples").addEventListener("change", (event) => {
  const { value } = event.target;
  event.target.value = "";
  if (value.startsWith("example:")) loadExample(examples.supports.find((one) => `example:${one.file}` === value));
  else if (value) loadSaved(value);
});

// --- taking away

element("save").addEventListener("click", guarded(async () => {
  const answer = await api.createSupport(support.message(), support.imageBlob());
  const saved = element("saved");
  const name = document.createElement("code");
  name.textContent = answer.support.name;
  saved.replaceChildren(answer.alreadyExisted ? "It was there already: " : "Saved as ", name,
    ". In a terminal: ", Object.assign(document.createElement("code"), {
      textContent: `capeserve estimate photo.jpg --support ${answer.support.name} --output out/` }));
  await listSaved();
}));
const json = (value) => `${JSON.stringify(value, null, 1)}\n`;
element("download-yaml").addEventListener("click", () => save(fileName(support, ".yaml"), supportYaml(support), "text/yaml"));
element("download-coco").addEventListener("click", () =>
  save(fileName(support, "-coco.json"), json(supportCoco(support)), "application/json"));
element("download-results").addEventListener("click", () =>
  save(fileName(support, "-results.json"), json(cocoResults(queries.items)), "application/json"));
element("download-json").addEventListener("click", () =>
  save(fileName(support, "-answers.json"), json(answersJson(queries.items)), "application/json"));

function enable() {
  const ready = support.points.length > 0;
  element("save").disabled = element("download-yaml").disabled = !ready;
  element("download-coco").disabled = !(support.image && support.placed.length);
  const answered = queries.items.some((item) => item.answer);
  element("download-results").disabled = element("download-json").disabled = !answered;
}

support.addEventListener("change", enable);
queries.addEventListener("answer", () => {
  enable();
  if (queries.item?.answer) showTiming(queries.item);
  showReport();
});

// --- server, model, token, theme

async function connect() {
  const status = element("status");
  try {
    models = await api.models();
    status.className = "status ok";
    const model = models.find((one) => one.isDefault) || models[0];
    status.lastElementChild.textContent = `connected · ${model.engine} · ${model.precision}`;
  } catch (error) {
    status.className = "status bad";
    status.lastElementChild.textContent = error.message;
    setTimeout(connect, 3000);
    return;
  }
  const select = element("model");
  select.replaceChildren(...models.map((one) =>
    new Option(one.isDefault ? `${one.system} (default)` : one.system, one.name, one.isDefault, one.isDefault)));
  chooseModel();
  await listSaved();
}

function chooseModel() {
  const chosen = models.find((one) => one.name === element("model").value);
  queries.model = chosen && !chosen.isDefault ? chosen.name : "";
  queries.hasMaps = chosen?.system !== "capellm";
  const reads = (modality) => [...chosen.requiredModalities, ...chosen.optionalModalities].includes(`MODALITY_${modality}`);
  const needs = (modality) => chosen.requiredModalities.includes(`MODALITY_${modality}`);
  const possible = { both: true, image: reads("IMAGE") && !needs("TEXT"), text: reads("TEXT") && !needs("IMAGE") };
  for (const radio of document.querySelectorAll("input[name=modality]")) {
    radio.disabled = !possible[radio.value];
    radio.parentElement.title = radio.disabled ? `${chosen.system} needs the other one too` : "";
    if (radio.disabled && radio.checked) document.querySelector("input[name=modality][value=both]").checked = true;
  }
  queries.estimate();
}

element("model").addEventListener("change", chooseModel);
const dialog = element("token-dialog");
element("token-button").addEventListener("click", () => { element("token").value = api.token(); dialog.showModal(); });
dialog.addEventListener("close", () => {
  if (dialog.returnValue !== "ok") return;
  api.setToken(element("token").value.trim());
  connect();
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = (name) => { document.documentElement.dataset.theme = name; };
setTheme(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => { if (!localStorage.getItem("theme")) setTheme(dark.matches ? "dark" : "light"); });
element("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", next);
  setTheme(next);
});

connect();
listExamples().catch(tell);
