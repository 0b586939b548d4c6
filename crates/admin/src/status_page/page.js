"use strict";
// Asks for the state every few seconds and shows it. Whatever others can choose is put into the page as text, never as markup.
const EVERY = 2000, TIMEOUT = 5000, HISTORY = 300000, LATELY = 300000, DAY = 86400000, SHOWN = 10;
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

// As on a terminal: nothing that would move or turn around what is beside it.
const clean = (text) => String(text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

function put(node, text) {
  text = clean(text);
  if (node.textContent !== text) node.textContent = text;
}

// As `put`; what stands between backticks is code.
function putCode(node, text) {
  text = clean(text);
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(...text.split("`").map((part, index) => index % 2 ? make("code", "", part) : part));
}

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const child of children) node.append(child instanceof Node ? child : clean(child));
  return node;
}

function span(seconds) {
  seconds = Math.max(0, Math.floor(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}h${two(Math.floor(seconds % 3600 / 60))}m`;
  return `${Math.floor(seconds / 86400)}d${two(Math.floor(seconds % 86400 / 3600))}h`;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit++; }
  return `${unit === 0 ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

const counted = (number, one) => `${number} ${one}${number === 1 ? "" : one.endsWith("s") ? "es" : "s"}`;
// In UTC, as records and logs are; the date too when it is older than a day.
const clock = (time, present = now) => {
  const text = new Date(time).toISOString();
  return present - time < DAY ? `${text.slice(11, 19)} UTC` : `${text.slice(0, 16).replace("T", " ")} UTC`;
};
// The moment when it was refused or failed: a record's time is when the connection began.
const endOf = (record) => Date.parse(record.time) + record.stages.totalMicros / 1000;
const peerOf = (it) => it.peerId ?? (it.claimedId ? `claims ${it.claimedId}` : "-");
const goalOf = (it) => [it.destination, it.originalDestination].filter(Boolean).join(" at ") || "-";
const failuresOf = (status) => status.traffic.flatMap((t) => t.ended.filter((e) => !e.success).map((e) => ({ ...e, direction: t.direction })));

// A table whose cells are changed only where their text does: a selection stays, and nothing is read out again.
class Table {
  constructor(place, caption, columns, empty) {
    this.columns = columns;
    this.body = make("tbody");
    const heads = columns.map(([head, , kind]) => { const th = make("th", kind, head); th.scope = "col"; th.setAttribute("role", "columnheader"); return th; });
    const row = make("tr", "", ...heads);
    row.setAttribute("role", "row");
    this.table = make("table", "", make("caption", "", caption), make("thead", "", row), this.body);
    // Where rows are shown as cards, a browser would forget that it is a table.
    this.table.setAttribute("role", "table");
    this.empty = make("p", "muted", empty);
    place.append(this.table, this.empty);
  }

  show(rows) {
    this.table.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    while (this.body.rows.length > rows.length) this.body.lastElementChild.remove();
    rows.forEach((row, index) => {
      const tr = this.body.rows[index] ?? this.newRow();
      this.columns.forEach(([, of, , tone], column) => {
        put(tr.cells[column], of(row));
        if (tone) tr.cells[column].className = tone(row);
      });
    });
  }

  newRow() {
    const tr = make("tr");
    tr.setAttribute("role", "row");
    for (const [head, , kind] of this.columns) {
      const td = make("td", kind);
      td.dataset.label = head;
      td.setAttribute("role", "cell");
      tr.append(td);
    }
    this.body.append(tr);
    return tr;
  }
}

// A list of names and values; as the table, changed in place.
class Facts {
  constructor(place) {
    this.list = make("dl");
    place.append(this.list);
  }

  show(facts) {
    while (this.list.children.length > facts.length * 2) this.list.lastElementChild.remove();
    while (this.list.children.length < facts.length * 2) this.list.append(make("dt"), make("dd"));
    facts.forEach(([name, value, tone], index) => {
      put(this.list.children[2 * index], name);
      const dd = this.list.children[2 * index + 1];
      put(dd, value);
      dd.className = tone ?? "";
    });
  }
}

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

class Plot {
  constructor(place, name, unit) {
    this.name = name;
    this.unit = unit;
    this.line = svg("polyline", { points: "" });
    this.svg = svg("svg", { class: "plot", viewBox: "0 0 300 60", preserveAspectRatio: "none", role: "img" });
    this.svg.append(this.line);
    this.caption = make("figcaption");
    place.append(make("figure", "", this.caption, this.svg));
  }

  // `points` are pairs of time and value; a value may be missing.
  show(points, now) {
    const known = points.filter(([, value]) => value !== null);
    const highest = Math.max(0, ...known.map(([, value]) => value));
    const number = (value) => value >= 100 ? value.toFixed(0) : value.toFixed(1);
    const last = known.length > 0 ? number(known[known.length - 1][1]) + this.unit : "nothing yet";
    put(this.caption, `${this.name}: ${last}${known.length > 0 ? `, highest ${number(highest)}${this.unit}` : ""}`);
    this.svg.setAttribute("aria-label", this.caption.textContent);
    const length = Math.max(60000, now - (points[0]?.[0] ?? now));
    const x = (time) => (300 - 300 * (now - time) / length).toFixed(1);
    const y = (value) => (57 - (highest > 0 ? 54 * value / highest : 0)).toFixed(1);
    this.line.setAttribute("points", known.map(([time, value]) => `${x(time)},${y(value)}`).join(" "));
  }
}

class LifetimeBar {
  constructor(place) {
    this.rect = svg("rect", { x: 0, y: 0, height: 10, width: 0 });
    this.svg = svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img" });
    this.svg.append(this.rect);
    place.append(this.svg);
  }

  show(part) {
    this.svg.toggleAttribute("hidden", part === null);
    if (part === null) return;
    this.rect.setAttribute("width", (100 * part).toFixed(1));
    this.svg.setAttribute("aria-label", `${Math.round(100 * part)} percent of its lifetime are left`);
    this.svg.classList.toggle("warn", part < 0.25 && part >= 0.1);
    this.svg.classList.toggle("bad", part < 0.1);
  }
}

// One for each reason; it stays where it is, so that the keyboard's focus does too.
class Refusal {
  constructor(reason) {
    this.head = make("h3", "id", reason);
    this.count = make("p", "muted");
    this.meaning = make("p");
    this.cause = make("p");
    this.remedy = make("p");
    this.details = make("details", "", make("summary", "", "Latest"));
    this.table = new Table(this.details, `The latest with ${reason}`, [
      ["Time", (r) => clock(endOf(r))],
      ["Direction", (r) => r.direction],
      ["From", (r) => r.downstream],
      ["To", goalOf],
      ["Peer", peerOf, "id"],
      ["What happened", (r) => [r.detail, r.decision?.rule && `rule: ${r.decision.rule}`, ...(r.decision?.nearest ?? []).map((n) => `nearest: ${n.rule}: ${n.lacked}`)].filter(Boolean).join("; ") || "-"],
    ], "None of them is remembered any more.");
    this.node = make("article", "", this.head, this.count, this.meaning, this.cause, this.remedy, this.details);
  }

  show(counts, records, explanation) {
    const newest = records[0];
    const last = newest ? `; last at ${clock(endOf(newest))}, ${newest.direction}, ${newest.downstream} to ${goalOf(newest)}, peer ${peerOf(newest)}` : "";
    put(this.count, `${counts.map((c) => `${c.connections} ${c.direction}`).join(", ")}${last}`);
    putCode(this.meaning, explanation?.meaning);
    putCode(this.cause, explanation && `Likely cause: ${explanation.cause}`);
    putCode(this.remedy, explanation && `What to do: ${explanation.remedy}`);
    put(this.details.firstElementChild, `The latest ${Math.min(records.length, SHOWN)}`);
    this.details.hidden = records.length === 0;
    this.table.show(records.slice(0, SHOWN));
  }
}

const identity = new Facts(at("identity")), lifetime = new LifetimeBar(at("identity"));
const plots = {
  begun: new Plot(at("plots"), "Connections", "/s"),
  handshake: new Plot(at("plots"), "Mean handshake", " ms"),
  refused: new Plot(at("plots"), "Refused or failed", "/s"),
};
const refusals = new Map();
const connections = new Table(at("connections"), "The newest first", [
  ["Age", (c) => span((now - Date.parse(c.time)) / 1000), "number"],
  ["Direction", (c) => c.direction],
  ["State", (c) => c.admitted ? "open" : "opening"],
  ["From", (c) => c.downstream],
  ["To", (c) => c.originalDestination ?? "-"],
  ["Peer", (c) => c.peerId ?? "-", "id"],
  ["Transport", (c) => c.transport ?? "-", "", (c) => c.transport === "plaintext" ? "warn" : ""],
  ["Rule", (c) => c.decision?.rule ?? "-"],
  ["Up", (c) => bytes(c.bytesUp), "number"],
  ["Down", (c) => bytes(c.bytesDown), "number"],
  ["Rate", (c) => rates.has(keyOf(c)) ? `${bytes(rates.get(keyOf(c)))}/s` : "-", "number"],
], "None.");
const handshakes = new Table(at("handshakes"), "The newest first", [
  ["Began", (r) => clock(Date.parse(r.time))],
  ["Direction", (r) => r.direction],
  ["Peer", peerOf, "id"],
  ["To", goalOf],
  ["TLS", (r) => r.tls.version],
  ["Group", (r) => r.tls.group ?? "-"],
  ["Resumed", (r) => r.tls.resumed ? "yes" : "no"],
  ["Took", (r) => `${(r.stages.handshakeMicros / 1000).toFixed(1)} ms`, "number"],
  ["Ended", (r) => r.reason],
], "None yet.");
const rules = new Table(at("rules"), "How often each rule decided, the most frequent first", [
  ["Rule", (r) => r.rule],
  ["Direction", (r) => r.direction],
  ["Decision", (r) => r.allowed ? "allowed" : "denied", "", (r) => r.allowed ? "" : "warn"],
  ["Connections", (r) => r.connections, "number"],
], "No decision yet.");
const tunnels = new Table(at("tunnels"), "Sessions that carry one connection after the other", [
  ["Direction", (t) => t.direction],
  ["Waiting", (t) => t.idle, "number"],
  ["Connections on a new session", (t) => t.new, "number"],
  ["Connections on a session that was there", (t) => t.reused, "number"],
], "None.");
const sources = new Table(at("sources"), "Where the identity comes from", [
  ["Source", (s) => s.name],
  ["Health", (s) => s.healthy ? "healthy" : "in trouble", "", (s) => s.healthy ? "good" : "bad"],
  ["What it says", (s) => s.message || "-"],
], "None is configured.");
const bundles = new Table(at("bundles"), "What it trusts", [
  ["Trust domain", (b) => b.trustDomain],
  ["CA certificates", (b) => b.authorities, "number"],
  ["The last expires", (b) => b.secondsLeft < 0 ? "EXPIRED" : `in ${span(b.secondsLeft)}`, "", (b) => b.secondsLeft < 0 ? "bad" : ""],
], "No bundle yet.");
const loads = new Table(at("loads"), "What is in force", [
  ["Subject", (l) => l.subject],
  ["In force since", (l) => l.since ?? "not yet"],
  ["Files", (l) => l.files.map((f) => f.file).join(", ") || "-"],
  ["Refused", (l) => l.refused.map((r) => `since ${r.since}: ${r.why}`).join("; ") || "-", "", (l) => l.refused.length > 0 ? "bad" : ""],
], "Nothing.");
const exporters = new Table(at("exports"), "What is exported", [
  ["Signal", (e) => e.signal],
  ["To", (e) => e.endpoint ?? "not exported"],
  ["Accepted", (e) => e.exported, "number"],
  ["Dropped", (e) => e.dropped, "number", (e) => e.dropped > 0 ? "number warn" : "number"],
  ["State", (e) => e.error ? `failing: ${e.error}` : e.endpoint ? "good" : "-", "", (e) => e.error ? "bad" : ""],
], "Nothing.");

let now = 0, data = null, answered = 0, isPaused = false, asking = false;
let history = [], seen = new Map(), rates = new Map();
const keyOf = (c) => `${c.direction} ${c.downstream} ${c.connectionId}`;

// What a person has to look at, the worst first: [is it bad, what, what to do].
function attention({ status, activity, refusals: latest, reasons }) {
  const found = [];
  for (const line of status.missing) found.push([true, "Not ready", line]);
  if (status.capture?.state === "missing") found.push([true, "The kernel rules are missing", status.capture.why]);
  const svid = status.identities?.svid;
  if (!svid) found.push([true, "No identity", "Without an SVID no connection of the mesh is possible. Look at the sources below."]);
  else if (svid.secondsLeft < 0) found.push([true, `The identity expired ${span(-svid.secondsLeft)} ago`, "It was not renewed. Look at the sources below."]);
  else if ((lifeLeft(svid) ?? 1) < 0.1) found.push([false, `The identity expires in ${span(svid.secondsLeft)}`, "Its source should have renewed it by now. Look at the sources below."]);
  if (activity.audit?.blocking > 0) found.push([true, `${counted(activity.audit.blocking, "destination")} of the audit log block new connections`, "Records can't be written there: look at disk, destination and the sidecar's log."]);
  const lately = new Map();
  for (const record of latest) if (now - endOf(record) < LATELY) lately.set(record.reason, [...(lately.get(record.reason) ?? []), record]);
  for (const [reason, records] of lately) {
    const peers = [...new Set(records.map(peerOf))].slice(0, 3).join(", ");
    // The sidecar remembers the latest few of each reason: if all of those are recent, there may have been more.
    const total = failuresOf(status).reduce((sum, one) => sum + (one.reason === reason ? one.connections : 0), 0);
    const isAll = records.length < latest.filter((record) => record.reason === reason).length || records.length >= total;
    found.push([false, `${reason}: ${isAll ? "" : "at least "}${counted(records.length, "connection")} in the last 5 minutes, peer ${peers}`, `${reasons[reason]?.meaning ?? ""} What to do: ${reasons[reason]?.remedy ?? "see the list below."}`]);
  }
  for (const bundle of status.identities?.bundles ?? []) if (bundle.secondsLeft < 0) found.push([true, `The bundle of ${bundle.trustDomain} expired ${span(-bundle.secondsLeft)} ago`, "No peer of this trust domain can be verified. Look at the sources below."]);
  if (status.directory?.unavailable) found.push([false, "The directory can't be asked", status.directory.unavailable]);
  for (const source of status.identities?.sources ?? []) if (!source.healthy) found.push([false, `Source in trouble: ${source.name}`, source.message]);
  for (const load of status.loads) for (const refused of load.refused) found.push([false, `${load.subject} refused since ${refused.since}; what was loaded before stays in force`, refused.why]);
  for (const one of status.exports) if (one.error) found.push([false, `Export of ${one.signal} fails`, one.error]);
  if (activity.audit?.dropped > 0) found.push([false, `The audit log lacks ${counted(activity.audit.dropped, "record")}`, "They were dropped before they were written: look at the sidecar's log."]);
  if (status.drainEnds) found.push([false, "Draining", `It ends by ${status.drainEnds} at the latest.`]);
  return found.sort((a, b) => b[0] - a[0]);
}

// Which part of its lifetime is left; null where that can't be said.
function lifeLeft(svid) {
  const life = (Date.parse(svid.notAfter) - Date.parse(svid.notBefore)) / 1000;
  return life > 0 ? Math.min(1, Math.max(0, svid.secondsLeft / life)) : null;
}

function showVerdict() {
  const found = attention(data), { status } = data;
  const bad = found.filter(([isBad]) => isBad).length;
  const state = status.ready ? "Ready" : "NOT READY";
  const rest = found.length === 0 ? "nothing to look at" : counted(found.length, "thing") + " to look at";
  put(at("verdict"), `${state}, ${status.phase}: ${rest}`);
  at("verdict").className = bad > 0 ? "bad" : found.length > 0 ? "warn" : "good";
  const list = at("attention");
  while (list.children.length > found.length) list.lastElementChild.remove();
  found.forEach(([isBad, what, todo], index) => {
    const li = list.children[index] ?? list.appendChild(make("li", "", make("strong"), make("span")));
    li.className = isBad ? "is-bad" : "";
    put(li.firstElementChild, what);
    putCode(li.lastElementChild, todo);
  });
  const id = status.identities?.svid?.spiffeId;
  put(at("who"), id ?? "no identity");
  put(at("process"), `version ${status.version}, profile ${status.profile}, up ${span(status.uptimeSeconds)}, snapshot ${status.generation}`);
  document.title = clean(`${status.ready ? "ready" : "NOT READY"} · ${id ?? "no identity"} · sidegate`);
}

function showIdentity({ identities, directory }) {
  const svid = identities?.svid;
  const facts = svid ? [
    ["SPIFFE ID", svid.spiffeId, "id"],
    ["Expires", svid.secondsLeft < 0 ? `EXPIRED ${span(-svid.secondsLeft)} ago` : `in ${span(svid.secondsLeft)}, at ${svid.notAfter}`, svid.secondsLeft < 0 ? "bad" : ""],
    ["Serial number", svid.serial, "id"],
    ["Renewed", `${counted(identities.rotations, "time")} since the start`],
  ] : [["SPIFFE ID", "none", "bad"]];
  if (directory) facts.push(["Directory", `${counted(directory.addresses, "address")} known${directory.unavailable ? `; UNAVAILABLE: ${directory.unavailable}` : ""}`, directory.unavailable ? "warn" : ""]);
  identity.show(facts);
  lifetime.show(svid ? lifeLeft(svid) : null);
}

function showPlots() {
  const rate = (of) => history.slice(1).map((point, index) => {
    const before = history[index], seconds = (point.time - before.time) / 1000;
    return [point.time, seconds > 0 ? Math.max(0, (of(point) - of(before)) / seconds) : null];
  });
  const mean = history.slice(1).map((point, index) => {
    const count = point.handshakes - history[index].handshakes;
    return [point.time, count > 0 ? 1000 * (point.seconds - history[index].seconds) / count : null];
  });
  plots.begun.show(rate((point) => point.begun), now);
  plots.handshake.show(mean, now);
  plots.refused.show(rate((point) => point.failed), now);
}

function showRefusals(fits) {
  const counts = new Map();
  for (const one of failuresOf(data.status)) counts.set(one.reason, [...(counts.get(one.reason) ?? []), one]);
  const records = (reason) => data.refusals.filter((record) => record.reason === reason && fits(record));
  const newest = (reason) => data.refusals.findIndex((record) => record.reason === reason);
  const shown = [...counts.keys()].filter((reason) => fits({ reason }) || records(reason).length > 0);
  const place = (reason) => newest(reason) < 0 ? Infinity : newest(reason);
  shown.sort((a, b) => place(a) - place(b) || a.localeCompare(b));
  for (const [reason, refusal] of refusals) if (!shown.includes(reason)) { refusal.node.remove(); refusals.delete(reason); }
  shown.forEach((reason, index) => {
    if (!refusals.has(reason)) refusals.set(reason, new Refusal(reason));
    const refusal = refusals.get(reason), there = at("refusals").children[index];
    // A node that is moved loses the focus: while it is in the list, the list stays as it is.
    if (there !== refusal.node && !(refusal.node.isConnected && at("refusals").contains(document.activeElement))) at("refusals").insertBefore(refusal.node, there ?? null);
    const own = records(reason);
    refusal.show(counts.get(reason), own.length > 0 ? own : data.refusals.filter((record) => record.reason === reason), data.reasons[reason]);
  });
  put(at("refusals-note"), shown.length > 0 ? "Since the start, the latest first." : counts.size > 0 ? "None that fits the filter." : "None since the start.");
}

function show() {
  const words = at("filter").value.trim().toLowerCase();
  const fits = (it) => words === "" || [it.peerId, it.claimedId, it.downstream, it.originalDestination, it.destination, it.reason, it.rule, it.decision?.rule].some((text) => text?.toLowerCase().includes(words));
  const { status, activity } = data;
  showVerdict();
  showIdentity(status);
  showPlots();
  showRefusals(fits);
  const open = data.connections.connections.filter(fits), hidden = data.connections.open - data.connections.connections.length;
  put(at("connections-note"), `${data.connections.open} open${words ? `, ${open.length} of those shown fit the filter` : ""}${hidden > 0 ? `; the ${hidden} oldest are left out, sidegate connections shows them` : ""}`);
  connections.show(open);
  handshakes.show(data.handshakes.filter(fits));
  put(at("rules-note"), `${counted(status.policyRules, "rule")} in force${activity.rulesLeftOut > 0 ? `; ${activity.rulesLeftOut} that decided are left out` : ""}`);
  rules.show(activity.rules.filter(fits));
  tunnels.show(activity.tunnels);
  sources.show(status.identities?.sources ?? []);
  bundles.show(status.identities?.bundles ?? []);
  loads.show(status.loads);
  exporters.show(status.exports);
  const audit = activity.audit;
  put(at("audit"), audit.on ? `Audit log: ${counted(audit.written, "record")} written, ${audit.dropped} dropped, ${audit.copiesDropped} dropped on the way to copies, ${counted(audit.blocking, "destination")} blocking` : "Audit log: off");
  at("audit").className = audit.blocking > 0 ? "bad" : audit.dropped > 0 || audit.copiesDropped > 0 ? "warn" : "";
}

// What is known only by comparing with the answer before.
function compare(answer) {
  const time = Date.now(), { status, activity } = answer;
  const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);
  if (data && status.uptimeSeconds < data.status.uptimeSeconds) { history = []; seen.clear(); }
  history.push({
    time: Date.parse(answer.time),
    begun: sum(status.traffic, (t) => t.open + sum(t.ended, (e) => e.connections)),
    failed: sum(failuresOf(status), (e) => e.connections),
    handshakes: sum(activity.handshakes, (h) => h.count),
    seconds: sum(activity.handshakes, (h) => h.seconds),
  });
  history = history.filter((point) => Date.parse(answer.time) - point.time <= HISTORY);
  const before = seen;
  seen = new Map();
  rates = new Map();
  for (const one of answer.connections.connections) {
    const key = keyOf(one), moved = one.bytesUp + one.bytesDown, last = before.get(key);
    seen.set(key, { time, moved });
    if (last && time > last.time) rates.set(key, Math.max(0, 1000 * (moved - last.moved) / (time - last.time)));
  }
}

// The time of the sidecar's clock: the last answer's, and what has passed since then.
const present = () => now + Date.now() - answered;

function showStale(why) {
  put(at("stale"), `${why} ${data ? `What is below is from ${clock(now, present())}.` : "Nothing is known yet."}`);
  at("stale").hidden = false;
  document.body.classList.add("stale");
}

// The sidecar's answer as text; none if there is none, which is told.
async function received() {
  let response, text;
  try {
    response = await fetch("/status/data", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
    text = await response.text();
  } catch (error) {
    console.warn(String(error));
    showStale("The sidecar does not answer.");
    return null;
  }
  if (response.ok) return text;
  showStale(`The sidecar answers with status ${response.status}: ${text.trim()}.`);
  return null;
}

async function ask() {
  if (asking || isPaused || document.hidden) return;
  asking = true;
  try {
    const text = await received();
    if (text === null) return;
    const answer = JSON.parse(text);
    // Another version may answer in a way that this page does not know.
    if (data && answer.status.version !== data.status.version) return location.reload();
    compare(answer);
    data = answer;
    now = Date.parse(answer.time);
    answered = Date.now();
    show();
    at("stale").hidden = true;
    document.body.classList.remove("stale");
  } catch (error) {
    showStale(`This page has failed: ${error}.`);
    throw error;
  } finally {
    asking = false;
  }
}

at("filter").addEventListener("input", () => { if (data) show(); });
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  put(at("pause"), isPaused ? `Go on (paused at ${clock(present(), present())})` : "Pause");
  ask();
});
document.addEventListener("visibilitychange", ask);
setInterval(ask, EVERY);
ask();
