"use strict";
/* The load of the server, from its metrics, as long as somebody looks. */

/** Milliseconds between two looks, how far back the course goes, and the histogram's last minute. */
const BETWEEN = 2000;
const COURSE = 120000;
const MINUTE = 61000;
/** The shortest time in milliseconds that a rate is told of. */
const LEAST = 1000;
const LEAST_BARS = 6;

const looks = [];

/** Return the series of a page in Prometheus's text format, by name: `{labels, value}` of each. */
function readMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match || !match[1].startsWith("mlserve_")) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    const value = match[3] === "+Inf" ? Infinity : Number(match[3]);
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value });
  }
  return found;
}

/** Return what one look at the metrics shows. Of several replicas it is the sum. Throws Refused if they are none. */
function lookAt(text) {
  const series = readMetrics(text);
  if (series.size === 0) throw new Refused(`what came from ${ENDPOINT} is not the answer of a model server: it has no metrics`);
  const all = (name) => series.get(`mlserve_${name}`) ?? [];
  const sum = (name, fits = () => true) => all(name).filter(fits).reduce((total, { value }) => total + value, 0);
  const refused = new Map();
  for (const { labels, value } of all("refused_total")) if (value > 0) refused.set(labels.reason, (refused.get(labels.reason) ?? 0) + value);
  const buckets = new Map();
  for (const { labels, value } of all("request_duration_seconds_bucket")) {
    const most = labels.le === "+Inf" ? Infinity : Number(labels.le);
    buckets.set(most, (buckets.get(most) ?? 0) + value);
  }
  const versions = all("model_version").map(({ labels }) => Object.values(labels).join(" "));
  const certificates = all("certificate").map(({ labels }) => Object.values(labels).join(" "));
  return {
    at: performance.now(),
    isReady: all("ready").length > 0 && all("ready").every(({ value }) => value === 1),
    running: sum("requests_running"),
    waiting: sum("requests_waiting"),
    wait: Math.max(0, ...all("predicted_wait_seconds").map(({ value }) => value)),
    limit: sum("queue_limit"),
    answered: sum("requests_total", ({ labels }) => labels.kind === "predict" && labels.code === "ok"),
    refused,
    buckets: new Map([...buckets].sort(([a], [b]) => a - b)),
    served: [...versions, ...certificates].sort().join("\n"),
  };
}

/** Return whether the server has begun to count anew since the look before: it was restarted. */
function hasRestarted(look) {
  const before = looks.at(-1);
  if (!before) return false;
  return look.answered < before.answered || [...before.buckets].some(([most, count]) => (look.buckets.get(most) ?? 0) < count);
}

/** Show a look, and keep it for the course. What an earlier start of the server counted is forgotten. */
function showLoad(look, slots) {
  if (hasRestarted(look)) looks.length = 0;
  looks.push(look);
  while (look.at - looks[0].at > COURSE) looks.shift();
  const before = looks.findLast(({ at }) => look.at - at >= LEAST) ?? look;
  const seconds = (look.at - before.at) / 1000;
  const rate = seconds > 0 ? Math.max(0, look.answered - before.answered) / seconds : 0;
  const refused = [...look.refused.values()].reduce((total, each) => total + each, 0);
  const reasons = [...look.refused].sort(([, a], [, b]) => b - a).map(([reason, count]) => `${reason.replaceAll("_", " ")} ${count}`);
  setTile("running", String(look.running), slots ? `of ${slots} at once` : "");
  setTile("waiting", String(look.waiting), Number.isFinite(look.limit) ? `at most ${look.limit}` : "bounded by time");
  setTile("wait", inTime(look.wait * 1000), "for a call that comes now");
  setTile("rate", `${rate >= 10 ? rate.toFixed(0) : rate.toFixed(1)} / s`, `${look.answered.toLocaleString("en")} since its start`);
  setTile("refused", refused.toLocaleString("en"), reasons.join(", ") || "since its start");
  byId("course").replaceChildren(courseOf(looks));
  showHistogram();
}

function setTile(id, value, note) {
  const tile = byId(`tile-${id}`);
  tile.querySelector(".number").textContent = value;
  tile.querySelector(".muted").textContent = note;
}

/** Return the course of what ran and waited, as a small picture. */
function courseOf(seen) {
  const height = 36, width = 240;
  const most = Math.max(1, ...seen.map(({ running, waiting }) => running + waiting));
  const now = seen.at(-1).at;
  const line = (valueOf) => seen.map((look) =>
    `${(width * (1 - (now - look.at) / COURSE)).toFixed(1)},${(height - 1 - (valueOf(look) / most) * (height - 3)).toFixed(1)}`).join(" ");
  const inAll = Math.max(...seen.map(({ running, waiting }) => running + waiting));
  const peak = `At most ${inAll} ran or waited at once, of ${counted(seen.length, "look")} ${inTheLast(now - seen[0].at)}.`;
  byId("course-note").textContent = peak;
  return makeSvg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": peak, preserveAspectRatio: "none" },
    makeSvg("polyline", { points: line(({ running, waiting }) => running + waiting), class: "all" }),
    makeSvg("polyline", { points: line(({ running }) => running), class: "running" }));
}

/** Return how long this page has looked, as text. */
const inTheLast = (milliseconds) => `in the last ${counted(Math.max(1, Math.round(milliseconds / 1000)), "second")}`;

/** Show how long requests took, refused ones too: those since the server's start, or of the last minute. */
function showHistogram() {
  const now = looks.at(-1);
  if (!now) return;
  const isLast = document.querySelector("input[name=span]:checked").value === "minute";
  const since = isLast ? looks.find(({ at }) => now.at - at <= MINUTE) : null;
  const span = isLast ? ` ${inTheLast(now.at - since.at)}` : "";
  const counts = countsOf(now.buckets, since?.buckets);
  const total = counts.reduce((sum, { count }) => sum + count, 0);
  const figure = byId("histogram");
  const note = byId("histogram-note");
  if (total === 0) {
    figure.replaceChildren();
    note.textContent = isLast ? `No request ended${span}.` : "No request has ended yet.";
    return;
  }
  const quantile = (share) => {
    let seen = 0;
    const found = counts.find(({ count }) => (seen += count) >= share * total);
    return Number.isFinite(found.most) ? `within ${inEdge(found.most)}` : `after more than ${inEdge(found.least)}`;
  };
  note.textContent = `Of ${counted(total, "request")}${span}, answered or not, half ended ${quantile(0.5)}, 99 % ${quantile(0.99)}.`;
  figure.replaceChildren(...barsOf(counts));
}

function countsOf(buckets, before) {
  let least = 0, below = 0;
  return [...buckets].map(([most, value]) => {
    const cumulative = value - (before?.get(most) ?? 0);
    const bar = { least, most, count: Math.max(0, cumulative - below) };
    least = most;
    below = cumulative;
    return bar;
  });
}

function barsOf(counts) {
  let first = counts.findIndex(({ count }) => count > 0);
  let end = counts.findLastIndex(({ count }) => count > 0) + 1;
  while (end - first < Math.min(LEAST_BARS, counts.length)) {
    if (first > 0) first -= 1;
    if (end < counts.length && end - first < LEAST_BARS) end += 1;
  }
  const shown = counts.slice(first, end);
  const most = Math.max(...shown.map(({ count }) => count));
  const every = shown.length > 8 ? 2 : 1;
  return shown.map(({ least, most: edge, count }, at) => {
    const fill = make("span", { class: "column" });
    fill.style.blockSize = count ? `${Math.max(2, (100 * count) / most)}%` : "0";
    const words = Number.isFinite(edge) ? `up to ${inEdge(edge)}` : `more than ${inEdge(least)}`;
    const edgeText = Number.isFinite(edge) ? inEdge(edge) : "more";
    return make("li", { title: `${words}: ${count}` },
      make("span", { class: "well", "aria-hidden": "true" }, fill),
      make("span", { class: "edge", "aria-hidden": "true", text: at % every === 0 ? edgeText : "" }), said(`${words}: ${count}`));
  });
}

/** Return an edge between two bars, in seconds, as text. */
const inEdge = (seconds) => (seconds < 1 ? `${Number((seconds * 1000).toPrecision(3))} ms` : `${seconds} s`);
