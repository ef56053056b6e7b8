// Shows openapi.json: operations with curl commands, and messages.

const theme = localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
document.documentElement.dataset.theme = theme;
document.querySelector("main").style.display = "block";

const make = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
const nameOf = (reference) => reference.split("/").pop();

function typeOf(schema) {
  if (schema.allOf) return typeOf(schema.allOf[0]);
  if (schema.$ref) return Object.assign(make("a", nameOf(schema.$ref)), { href: `#${nameOf(schema.$ref)}` });
  if (schema.type === "array") {
    const list = make("span", "list of ");
    list.append(typeOf(schema.items));
    return list;
  }
  return make("span", schema.format ? `${schema.type} (${schema.format})` : schema.type || "object");
}

function table(rows) {
  const found = make("table");
  for (const [name, schema, description] of rows) {
    const row = found.appendChild(make("tr"));
    row.appendChild(make("td")).appendChild(make("code", name));
    row.appendChild(make("td")).append(typeOf(schema));
    row.appendChild(make("td", description || ""));
  }
  return found;
}

function curl(verb, path, operation) {
  const url = `${location.origin}${path.replace(/{(\w+)}/g, (_, name) => name.toUpperCase())}`;
  const content = operation.requestBody?.content;
  if (!content) return `curl ${verb === "delete" ? "-X DELETE " : ""}'${url}'`;
  if (content["application/x-ndjson"]) {
    return `curl -N '${url}' -H 'Content-Type: application/x-ndjson' --data-binary @requests.ndjson`;
  }
  if (path.endsWith("supports")) return `curl '${url}' -F request=@support.json -F 'examples[0].image=@cat.jpg'`;
  if (path.includes("batch")) {
    return `curl '${url}' -F 'requests[0].image=@a.jpg' -F 'requests[0].support=supports/ID' -F 'requests[1].image=@b.jpg' …`;
  }
  const support = path.includes("{support}") ? "" : " -F support=supports/ID";
  return `curl '${url}' -F image=@photo.jpg${support}`;
}

function operationElement(verb, path, operation) {
  const details = make("details");
  const summary = details.appendChild(make("summary"));
  summary.append(make("b", verb.toUpperCase(), "verb"), make("code", path), make("span", operation.summary));
  const body = details.appendChild(make("div"));
  if (operation.description) body.append(make("p", operation.description));
  body.appendChild(make("pre")).append(make("code", curl(verb, path, operation)));
  if (operation.parameters.length) {
    body.append(make("h3", "Parameters"), table(operation.parameters.map((one) => [one.name, one.schema, one.description])));
  }
  const sent = operation.requestBody?.content["application/json"]?.schema;
  if (sent) {
    body.append(make("h3", "Body"));
    if (sent.properties) body.append(table(Object.entries(sent.properties).map(([name, one]) => [name, one, one.description])));
    else body.appendChild(make("p")).append(typeOf(sent));
  }
  const answer = operation.responses["200"].content["application/json"]?.schema;
  if (answer) {
    body.append(make("h3", "Answer"));
    body.appendChild(make("p")).append(typeOf(answer));
  }
  return details;
}

const api = await (await fetch("openapi.json")).json();
document.getElementById("lead").textContent = api.info.description.replaceAll("`", "").replace(/([^\n])\n([^\n])/g, "$1 $2");
const operations = document.getElementById("operations");
for (const tag of api.tags) {
  operations.append(make("h2", tag.description || tag.name));
  for (const [path, verbs] of Object.entries(api.paths)) {
    for (const [verb, operation] of Object.entries(verbs)) {
      if (operation.tags.includes(tag.name)) operations.append(operationElement(verb, path, operation));
    }
  }
}
const schemas = document.getElementById("schemas");
for (const [name, schema] of Object.entries(api.components.schemas)) {
  const details = schemas.appendChild(make("details"));
  details.id = name;
  details.appendChild(make("summary")).append(make("code", name), make("span", (schema.description || "").split("\n")[0]));
  const body = details.appendChild(make("div"));
  if (schema.enum) body.append(make("p", schema.enum.join(", ")));
  if (schema.properties) body.append(table(Object.entries(schema.properties).map(([key, one]) => [key, one, one.description])));
}
addEventListener("hashchange", () => { const target = document.getElementById(location.hash.slice(1)); if (target) target.open = true; });
