"use strict";
/* The OpenAPI document as text: operations by protocol, each with what it takes and answers. */

const GROUPS = [
  ["/v2", "Open Inference Protocol", "Version 2, as Triton, KServe and MLServer speak it, with Triton's extensions."],
  ["/v1", "TensorFlow Serving", "Its REST API, version 1."],
  ["/", "The server", "What belongs to no protocol."],
];
const OF_EVERY_ANSWER = ["x-request-id", "traceparent"];
const METHODS = ["get", "post", "put", "delete"];

/** Show the document; asks for the token first where the server does. */
async function connect() {
  try {
    const { value } = await requestJson("openapi.json");
    showWhole(value);
    showState(`version ${value.info.version}`, "ready");
    byId("main").hidden = false;
    follow();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) needToken(error);
    else showState(error.message, "gone");
  }
}

/** Show it. Throws Refused for what is JSON, and no OpenAPI document: a proxy may answer instead. */
function showWhole(document) {
  try {
    showDocument(document);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error; // it lacks what every document has
    throw new Refused(`what came from ${ENDPOINT} is no OpenAPI document: see what answers at this address`);
  }
}

function showDocument({ info, paths, components }) {
  byId("about").textContent = info.description;
  const operations = Object.entries(paths).flatMap(([path, item]) =>
    METHODS.filter((method) => method in item).map((method) => ({ path, method, item, operation: item[method] })));
  const groups = GROUPS.map(([prefix, title, text], at) => {
    const before = GROUPS.slice(0, at).map(([each]) => each);
    const own = operations.filter(({ path }) => path.startsWith(prefix) && !before.some((each) => path.startsWith(each)));
    return { title, text, own };
  });
  byId("operations").replaceChildren(...groups.map(showGroup));
  const names = Object.keys(components.schemas).sort();
  byId("schemas").replaceChildren(...names.map((name) => showSchemaOf(name, components.schemas[name])));
  byId("contents").replaceChildren(
    ...groups.flatMap(({ title, own }) => [make("h2", { text: title }), make("ul", {}, ...own.filter(({ path }) => !path.includes("/versions/")).map(linkTo))]),
    make("h2", { text: "Schemas" }),
    make("ul", {}, ...names.map((name) => make("li", {}, make("a", { href: `#schema-${name}`, text: name })))));
}

const idOf = ({ method, path }) => `${method}${path.replaceAll(/[^a-z0-9]+/gi, "-")}`;

const linkTo = (each) => make("li", {}, make("a", { href: `#${idOf(each)}`, title: each.operation.summary }, ...breakable(each.path)));

/** Return a path that may be broken after each slash. */
const breakable = (path) => path.split(/(?<=\/)/).flatMap((part) => [part, make("wbr")]);

function showGroup({ title, text, own }, at) {
  const id = `group-${at}`;
  return make("section", { class: "group", "aria-labelledby": id },
    make("h2", { id, text: title }), make("p", { class: "muted", text }), ...own.map(showOperation));
}

function showOperation(each) {
  const { path, method, item, operation } = each;
  const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])];
  const needsToken = !(Array.isArray(operation.security) && operation.security.length === 0);
  const body = [
    make("p", { class: "muted", text: needsToken ? "Needs the token, if the server has one." : "Needs no token." }),
    ...showParameters(parameters),
    ...showBody(operation.requestBody),
    ...showResponses(operation.responses ?? {}),
    make("h3", { text: "In a shell" }),
    showCommand(each),
  ];
  return make("details", { class: "operation card", id: idOf(each) },
    make("summary", {}, make("span", { class: `method ${method}`, text: method.toUpperCase() }), make("code", { text: path }), make("span", { class: "muted", text: operation.summary })),
    make("div", { class: "body" }, ...body));
}

function showParameters(parameters) {
  if (parameters.length === 0) return [];
  const rows = parameters.map(({ name, in: place, required, description, schema }) => make("tr", {},
    make("th", { scope: "row" }, make("code", { text: name })), make("td", { text: `${place}${required ? ", required" : ""}` }),
    make("td", {}, make("span", { class: "schema", text: inLine(schema) }), description ? make("div", { class: "muted", text: description }) : null)));
  return [make("h3", { text: "Parameters" }), tableOf(["name", "where", "what"], rows)];
}

function showBody(body) {
  if (!body) return [];
  const kinds = Object.entries(body.content).map(([kind, { schema }]) =>
    make("div", {}, make("p", {}, make("code", { text: kind })), showSchema(schema)));
  return [make("h3", { text: body.required ? "Body" : "Body, which may be left out" }), ...kinds];
}

function showResponses(responses) {
  const rows = Object.entries(responses).map(([status, { description, content = {}, headers = {} }]) => make("tr", {},
    make("th", { scope: "row", text: status }),
    make("td", {}, description, ...Object.entries(content).map(([kind, { schema }]) => make("div", { class: "muted" }, `${kind} `, showSchema(schema))),
      showHeaders(headers))));
  return [make("h3", { text: "Answers" }), tableOf(["status", "what"], rows, "responses")];
}

/** Name the headers of an answer, but for those of every one. */
function showHeaders(headers) {
  const names = Object.keys(headers).filter((name) => !OF_EVERY_ANSWER.includes(name));
  return names.length ? make("div", { class: "muted", text: `with ${names.join(", ")}` }) : null;
}

function tableOf(names, rows, kind = "") {
  return make("div", { class: "scroll" }, make("table", { class: kind },
    make("thead", {}, make("tr", {}, ...names.map((text) => make("th", { scope: "col", text })))), make("tbody", {}, ...rows)));
}

function showCommand({ path, method, operation }) {
  const url = new URL(path.replace(/^\//, "").replaceAll(/\{(\w+)\}/g, (_, name) => name.toUpperCase()), BASE).href;
  const words = ["curl -sS", method === "get" ? "" : `-X ${method.toUpperCase()}`, quoted(url)];
  if (token && !(Array.isArray(operation.security) && operation.security.length === 0)) words.push('-H "Authorization: Bearer $MLSERVE_TOKEN"');
  const kinds = Object.keys(operation.requestBody?.content ?? {});
  if (kinds.includes("application/json")) words.push("-H 'Content-Type: application/json' -d @request.json");
  const text = words.filter(Boolean).join(" ");
  return make("div", {}, make("pre", { tabindex: "0", role: "group", "aria-label": `A command that asks ${path}` }, make("code", { text })), make("p", { class: "row tight" }, copyButton(() => text, "the command")));
}

// Schemas

function showSchemaOf(name, schema) {
  return make("details", { class: "operation card", id: `schema-${name}` },
    make("summary", {}, make("code", { text: name })), make("div", { class: "body" }, showSchema(schema)));
}

/** Return a schema: one line, or its properties below each other. */
function showSchema(schema) {
  const properties = propertiesOf(schema);
  if (properties === null) return make("div", { class: "schema" }, ...lineOf(schema));
  return make("div", { class: "schema" }, ...lineOf(schema), listOf(properties, schema));
}

const listOf = (properties, schema) => make("ul", {}, ...Object.entries(properties).map(([name, each]) => {
  const inner = propertiesOf(each);
  const isRequired = ownerOf(schema).required?.includes(name);
  return make("li", {}, make("span", { class: `key-name${isRequired ? " required" : ""}`, text: name }), isRequired ? said(" (required)") : null, ": ",
    ...lineOf(each), each.description ? make("span", { class: "muted", text: ` ${each.description}` }) : null, inner === null ? null : listOf(inner, each));
}));

/** The schema that has the properties: that of the items, for a list of objects. */
function ownerOf(schema) {
  return schema.type === "array" && schema.items && !schema.properties ? ownerOf(schema.items) : schema;
}

const propertiesOf = (schema) => ownerOf(schema).properties ?? null;

function lineOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return [make("a", { href: `#schema-${name}`, text: name })];
  }
  if (schema.type === "array" && schema.items) return ["list of ", ...lineOf(schema.items)];
  for (const key of ["anyOf", "oneOf"]) {
    if (schema[key]?.every((each) => each.type || each.$ref)) return schema[key].flatMap((each, at) => (at ? [" or ", ...lineOf(each)] : lineOf(each)));
  }
  return [inLine(schema)];
}

/** Return what a schema says in a line of text. */
function inLine(schema = {}) {
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.join(", ");
  const kind = schema.type ?? (schema.properties ? "object" : "anything");
  const bounds = [["minimum", "at least"], ["maximum", "at most"], ["minLength", "length at least"], ["minItems", "items at least"]];
  const said = bounds.filter(([name]) => schema[name] !== undefined && schema[name] !== 0).map(([name, words]) => `${words} ${schema[name]}`);
  return [kind, ...said, schema.pattern ? `like ${schema.pattern}` : ""].filter(Boolean).join(", ");
}

// What is looked for

/** Open what the address names. */
function follow() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView({ block: "start" });
}

function filter() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const each of document.querySelectorAll(".operation")) {
    const text = each.textContent.toLowerCase();
    each.hidden = !words.every((word) => text.includes(word));
    count += each.hidden ? 0 : 1;
  }
  for (const each of document.querySelectorAll(".group")) each.hidden = each.querySelector(".operation:not([hidden])") === null;
  announce(`${count} shown`);
}

window.addEventListener("hashchange", follow);
byId("filter").addEventListener("input", filter);
listenForToken(connect);
connect();
