// The page: asks once a second, and shows what it is told.

import { drawClasses, drawGraph, drawLines, nodeInWords, updateTimes } from "./charts.js";
import { become, element, reconcile, setText, shown } from "./elements.js";
import { age, classes, figure, levels, number, quantile, endInWords, rates, sampled, since, summary } from "./figures.js";
import { cycleInWords, likeness, waitsFor } from "./graph.js";

const LOOK_EVERY = 1000, HOSTS_EVERY = 5000, MORE = 100, SHOWN_MAX = 1000;
// Longer than the command lets a daemon take that hangs.
const ANSWER_MAX = 10_000;
const token = location.pathname.split("/")[1];
const at = id => document.getElementById(id);
const wish = { all: false, filter: "", sort: "held", count: MORE };
let samples = [], last, inspected, opener, isPaused = false, lookTimer;
// The look under way: a newer one ends it, so that the daemon is not asked for what nobody will see.
let looking;
// Each wish has a number, so that an answer to one of before is not shown.
let wishes = 0;

/** What the command that serves the page, or the daemon behind it, has against a question. */
class Refusal extends Error {
  constructor(status, words) {
    super(words);
    this.status = status;
  }
}

async function ask(call, params = {}, ender) {
  let answer;
  // A command that is stopped, or a way to it that is interrupted, would keep the page as it is. How long a break takes the daemon decides.
  const limit = call === "break" ? null : AbortSignal.timeout(ANSWER_MAX);
  const signal = limit && ender ? AbortSignal.any([limit, ender.signal]) : limit;
  try {
    answer = await fetch(`/api/${call}`, {
      method: "POST", headers: { "X-Sidelock-Token": token, "Content-Type": "application/json" }, body: JSON.stringify(params),
      cache: "no-store", credentials: "omit", redirect: "error", signal,
    });
  } catch {
    if (limit?.aborted) throw new Refusal(0, `sidelock dashboard has not answered within ${age(ANSWER_MAX)}. It may be stopped, or the way to it interrupted.`);
    throw new Refusal(0, "sidelock dashboard does not answer any more. Start it again, and open the address that it prints.");
  }
  if (answer.status === 403) throw new Refusal(403, "This address is not valid any more: sidelock dashboard was started anew, and has printed another one.");
  const told = await answer.json().catch(() => ({ error: { words: `sidelock dashboard answered ${answer.status}` } }));
  if (told.error) throw new Refusal(answer.status, told.error.words);
  return told;
}

// Looking

async function look() {
  clearTimeout(lookTimer);
  const number = wishes;
  looking?.abort();
  looking = new AbortController();
  try {
    const told = await ask("look", { ...wish, inspect: inspected ?? null }, looking);
    if (number !== wishes) return;
    samples = sampled(samples, { at: told.at, instance: told.instance, stats: told.stats });
    last = told;
    trouble(told.trouble ?? (told.state === "OK" ? null : told.why));
    show();
  } catch (refusal) {
    if (number !== wishes) return;
    trouble(refusal.message, true);
  }
  next();
}

function next() {
  clearTimeout(lookTimer);
  if (!isPaused) lookTimer = setTimeout(look, LOOK_EVERY);
}

function lookNow() {
  wishes += 1;
  look();
}

/** Says what is wrong, above all else; what is shown is old where nothing can be seen. */
function trouble(words, isOld = false) {
  const banner = at("banner");
  setText(banner, words ?? "");
  banner.hidden = !words;
  document.body.classList.toggle("old", isOld);
  if (isOld) state("away", "not live");
}

function state(look, words) {
  at("state").dataset.state = look;
  setText(at("state"), words);
}

async function lookAtHosts() {
  if (!isPaused) {
    try {
      const { hosts } = await ask("hosts");
      at("hosts-words").textContent = "";
      showHosts(hosts);
    } catch (refusal) {
      setText(at("hosts-words"), refusal.message);
    }
  }
  setTimeout(lookAtHosts, HOSTS_EVERY);
}

// Showing

function show() {
  document.title = `${last.host} – sidelock`;
  const lease = last.lease_ms ? `leases of ${age(last.lease_ms)}` : "without Redis";
  setText(at("where"), shown(`${last.host} · ${last.version} · ${lease} · up ${age(figure(last.stats, "uptime_ms"))}`));
  const unserved = figure(last.stats, "redis.cluster.parts_unserved");
  const isInPart = figure(last.stats, "redis.connected") === 1 && unserved > 0 && unserved < 64;
  const words = { OK: "live", WARNING: "recovering", CRITICAL: isInPart ? "parts unserved" : "no locks now" };
  state(last.state, isPaused ? "paused" : words[last.state] ?? last.state);
  at("state").title = last.why;
  showTiles();
  showLocks();
  showInspected();
  showGraph();
  showCharts();
}

function showTiles() {
  const { stats } = last;
  const grants = rates(samples, "grants_total").at(-1)?.value;
  const long = quantile(classes(stats.waits?.by_microseconds), 0.99);
  const redis = stats.redis;
  const tiles = [
    ["Held", number(stats.held), `${number(stats.locks)} locks known here`],
    ["Waiting", number(stats.waiting), `${number(stats.timeouts_total)} timed out`],
    ["Grants a second", grants === undefined ? "–" : number(grants), `${number(stats.grants_total)} in all`],
    ["99 % of waits", long === null ? "–" : long === Infinity ? "> 50 min" : `≤ ${endInWords(long)}`, "since its start"],
    ["Lost", number(stats.lost_total), `${number(stats.broken_total)} broken by hand`],
    ["Clients", number(stats.sessions), "with this page's own"],
    redis ? ["Redis", redis.connected ? `${redis.round_trip_ms || "< 1"} ms` : "away", redis.connected ? "to answer" : last.why]
      : ["Redis", "none", "locks of this host alone"],
  ];
  reconcile(at("tiles"), tiles, tile => tile[0], () => element("div", {}, element("dt"), element("dd"), element("dd", { class: "quiet" })),
    (node, texts) => texts.forEach((text, index) => setText(node.children[index], text)));
}

/** Who somebody is, in a few words. */
function person(one) {
  if (one.foreign) return "not a sidelock client";
  const process = [one.command, one.pid === undefined ? "" : `pid ${one.pid}`].filter(word => word).join(", ");
  if (!process) return one.session === undefined ? `${one.host ?? "–"}${one.dead ? " (gone)" : ""}` : `session ${one.session} on ${one.host}`;
  return one.host ? `${process} on ${one.host}` : process;
}

function how(lock) {
  if (lock.permits !== undefined) return `${lock.permits} permit${lock.permits === 1 ? "" : "s"}`;
  if (lock.holders.length > 0) return lock.mode ?? "held";
  return lock.lease.state === "waiting" ? "elsewhere" : "free";
}

function heldFor(lock) {
  return Math.max(-1, ...lock.holders.map(one => one.held_ms ?? -1));
}

function showLocks() {
  const { locks, matching, known, isCut } = last;
  const of = wish.filter ? `${number(matching)} of ${number(known)}` : number(known);
  const first = locks.length < matching ? `, the first ${number(locks.length)} are shown` : "";
  setText(at("count"), `${of}${isCut ? " and more" : ""}${first}`);
  const body = at("locks").tBodies[0];
  reconcile(body, locks, lock => lock.name, lock => {
    const open = element("button", { type: "button", class: "name", click: () => inspect(lock.name, open) });
    return element("tr", {}, element("th", { scope: "row" }, open), ...Array.from({ length: 6 }, () => element("td")));
  }, (row, lock) => {
    const [name, mode, holder, unit, held, waiting, lease] = row.children;
    setText(name.firstChild, shown(lock.name));
    name.firstChild.title = shown(lock.name);
    const [one, ...others] = lock.holders;
    const more = Math.max(lock.holding, lock.holders.length) - 1;
    setText(mode, how(lock));
    setText(holder, one ? shown(person(one)) + (more > 0 ? ` and ${number(more)} more` : "") : "–");
    holder.title = shown([one, ...others].filter(each => each).map(person).join("; "));
    setText(unit, one?.unit ? shown(one.unit) : "–");
    setText(held, heldFor(lock) < 0 ? "–" : age(heldFor(lock)));
    setText(waiting, number(lock.waiting));
    setText(lease, lock.lease.state);
    mode.className = lock.holders.length === 0 ? "quiet" : "";
    unit.className = "quiet";
    lease.className = "quiet";
    held.className = "number";
    waiting.className = lock.waiting > 0 ? "number many" : "number";
    row.classList.toggle("chosen", lock.name === inspected);
  });
  at("none").hidden = locks.length > 0;
  setText(at("none"), wish.filter ? "No lock has that in its name or its holder." : "No locks. They appear as soon as somebody asks for one.");
  at("more").hidden = locks.length >= matching || wish.count >= SHOWN_MAX;
  for (const head of document.querySelectorAll("#locks [data-sort]")) {
    if (head.dataset.sort === wish.sort) head.setAttribute("aria-sort", wish.sort === "name" ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

function inspect(name, from) {
  inspected = name;
  opener = from;
  at("inspector").hidden = false;
  at("columns").classList.add("split");
  at("inspected").replaceChildren();
  notice("");
  setText(at("inspected-name"), shown(name));
  at("inspected-name").focus({ preventScroll: window.innerWidth > 1000 });
  lookNow();
}

function closeInspector() {
  inspected = undefined;
  at("inspector").hidden = true;
  at("columns").classList.remove("split");
  (opener?.isConnected ? opener : at("filter")).focus();
  if (last) showLocks();
}

function notice(words, isBad = false) {
  at("notice").hidden = !words;
  at("notice").classList.toggle("bad", isBad);
  setText(at("notice"), words);
}

function fact(name, value) {
  return value === undefined || value === null || value === "" ? [] : [element("dt", {}, name), element("dd", {}, shown(value))];
}

function facts(one, time) {
  const user = one.user === undefined ? one.uid : `${one.user} (${one.uid})`;
  return element("dl", { class: "facts" }, ...fact("user", user), ...fact("unit", one.unit), ...fact("owner", one.owner),
    ...fact("mode", one.mode), ...fact("count", one.count > 1 ? one.count : undefined), ...fact("session", one.session),
    ...fact("token", one.token), ...fact("note", one.meta), ...fact(time[0], time[1] === undefined ? undefined : age(time[1])));
}

function showInspected() {
  const lock = last.inspected;
  if (inspected === undefined || !lock) return;
  const place = at("inspected");
  if (lock.error) return place.replaceChildren(element("p", { class: "notice bad" }, lock.error.words));
  if (lock.name !== inspected) return;
  const focused = document.activeElement?.closest?.("#inspected") ? document.activeElement.dataset.token : undefined;
  const free = lock.holders.length === 0;
  const valid = lock.lease.valid_ms === null ? "" : `, valid for ${age(lock.lease.valid_ms)}`;
  const others = lock.holding - lock.holders.length;
  const waiting = lock.waiting - lock.waiters.length;
  become(place, element("div", {},
    element("p", { class: "quiet" }, `${free ? "free" : how(lock)} · lease ${lock.lease.state}${valid}`),
    element("h3", {}, "Held by"),
    free ? element("p", { class: "empty" }, "Nobody.") : element("ol", { class: "people" }, ...lock.holders.map(one => element(
      "li", {}, element("p", { class: "who" }, shown(person(one))), facts(one, ["held for", one.held_ms]),
      one.token === undefined ? null : element(
        "button", { type: "button", class: "danger", "data-token": one.token, click: () => askToBreak(lock.name, one) }, "Break this hold")))),
    others > 0 ? element("p", { class: "quiet" }, `and ${number(others)} more`) : null,
    free || (lock.holders.length === 1 && others <= 0 && lock.holders[0].token !== undefined) ? null : element(
      "button", { type: "button", class: "danger", "data-token": "all", click: () => askToBreak(lock.name) }, "Break all holds"),
    element("h3", {}, `Waiting here: ${number(lock.waiting)}`),
    element("ol", { class: "people" }, ...lock.waiters.map(one => element(
      "li", {}, element("p", { class: "who" }, shown(person(one))), facts(one, ["waits for", one.waited_ms])))),
    waiting > 0 && lock.waiters.length > 0 ? element("p", { class: "quiet" }, `and ${number(waiting)} more`) : null));
  if (focused !== undefined) [...place.querySelectorAll("button")].find(one => one.dataset.token === focused)?.focus();
}

function showGraph() {
  const graph = waitsFor(last.waits);
  const { awaited } = last;
  const missing = awaited - last.waits.length;
  const deadlocks = last.stats.deadlocks_total;
  const refused = deadlocks > 0 ? `; ${number(deadlocks)} deadlock${deadlocks === 1 ? "" : "s"} refused so far` : "";
  setText(at("graph-words"), (awaited === 0 ? "nobody waits on this host"
    : `${number(awaited)} lock${awaited === 1 ? "" : "s"}, as far as this host knows${missing > 0 ? `; ${number(missing)} of them left out` : ""}${graph.leftOut > 0 ? `; ${number(graph.leftOut)} parts of long cycles left out` : ""}`) + refused);
  const list = at("cycles");
  list.hidden = graph.cycles.length === 0;
  reconcile(list, graph.cycles.map(cycle => shown(cycleInWords(cycle, node => {
    const [first, second] = nodeInWords(node);
    return node.kind === "lock" || !second ? first : `${first} (${second})`;
  }))),
    words => words, () => element("li", {}, element("b", {}, "cycle "), element("span")), (node, words) => setText(node.children[1], words));
  const drawn = `${at("graph").clientWidth} ${likeness(graph, nodeInWords)}`;
  if (graph.nodes.length === 0) return at("graph").replaceChildren(element("p", { class: "empty" }, "Nobody waits."));
  // What is unchanged stays, with the focus and below the pointer.
  if (at("graph").dataset.drawn === drawn && at("graph").querySelector("svg")) return updateTimes(at("graph"), graph);
  drawGraph(at("graph"), graph, name => inspect(name));
  at("graph").dataset.drawn = drawn;
}

function showCharts() {
  drawLines(at("rates"), [
    { name: "granted", look: "one", values: rates(samples, "grants_total") },
    { name: "timed out or busy", look: "two", values: rates(samples, "timeouts_total", "busy_total") },
    { name: "lost", look: "three", values: rates(samples, "lost_total") },
  ], last.at);
  drawLines(at("levels"), [
    { name: "held", look: "one", values: levels(samples, "held") },
    { name: "waiting", look: "two", values: levels(samples, "waiting") },
  ], last.at);
  const range = document.querySelector("[name=range]:checked").value;
  for (const [id, what] of [["waits", "waits"], ["holds", "holds"]]) {
    const histogram = last.stats[what]?.by_microseconds;
    const counted = since(histogram, range === "minutes" ? samples[0]?.stats[what]?.by_microseconds : undefined);
    setText(at(`${id}-words`), summary(counted));
    drawClasses(at(id), counted, `${at(`${id}-title`).textContent}: ${summary(counted)}`);
  }
}

function showHosts(hosts) {
  reconcile(at("hosts").tBodies[0], hosts, host => host.instance, () => element("tr", {}, element("th", { scope: "row" }), ...Array.from({ length: 3 }, () => element("td", { class: "quiet" }))),
    (row, host) => [host.host, host.version ?? "–", host.instance, host.own ? "this host" : host.version ? "" : "does not answer"]
      .forEach((text, index) => setText(row.children[index], shown(text))));
  setText(at("hosts-words"), `${number(hosts.length)} that share Redis, as far as you may know`);
}

// Breaking

function askToBreak(name, holder) {
  setText(at("ask-title"), holder ? `Take ${shown(name)} from ${shown(person(holder))}?` : `Take ${shown(name)} from everybody who holds it?`);
  at("reason").value = "";
  at("break").onclick = () => breakNow(name, holder?.token);
  at("ask").showModal();
  at("reason").focus();
}

/** The button that has opened it may be another one by now. */
function closeQuestion() {
  at("ask").close();
  at("inspected-name").focus();
}

async function breakNow(name, holdersToken) {
  closeQuestion();
  notice("breaking…");
  const params = { name, reason: at("reason").value };
  if (holdersToken !== undefined) params.token = holdersToken;
  try {
    const told = await ask("break", params);
    notice([told.words, ...told.warnings].join(". "), told.warnings.length > 0);
  } catch (refusal) {
    notice(refusal.message, true);
  }
  lookNow();
}

// What somebody does

at("filter").addEventListener("input", () => {
  wish.filter = at("filter").value;
  wish.count = MORE;
  lookNow();
});
at("all").addEventListener("change", () => {
  wish.all = at("all").checked;
  lookNow();
});
at("more").addEventListener("click", () => {
  wish.count = Math.min(SHOWN_MAX, wish.count + MORE);
  lookNow();
});
for (const head of document.querySelectorAll("#locks [data-sort]")) {
  head.firstElementChild.addEventListener("click", () => {
    wish.sort = head.dataset.sort;
    lookNow();
  });
}
for (const choice of document.querySelectorAll("[name=range]")) choice.addEventListener("change", () => last && showCharts());
at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").setAttribute("aria-pressed", String(isPaused));
  setText(at("pause"), isPaused ? "Go on" : "Pause");
  lookNow();
});
at("close").addEventListener("click", closeInspector);
at("keep").addEventListener("click", closeQuestion);
at("ask").addEventListener("cancel", event => {
  event.preventDefault();
  closeQuestion();
});
at("reason").addEventListener("keydown", event => {
  if (event.key === "Enter") at("break").click();
});
document.addEventListener("keydown", event => {
  const isTyping = event.target.closest("input, dialog");
  if (event.key === "Escape" && !at("inspector").hidden && !at("ask").open && !isTyping) closeInspector();
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    at("filter").focus();
  }
});

look();
lookAtHosts();
