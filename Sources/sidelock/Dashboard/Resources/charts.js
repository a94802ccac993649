// Drawings as SVG: lines over time, classes of times, and who waits for whom.

import { cut, element, reconcile, setText, shape, shown } from "./elements.js";
import { age, endInWords, KEPT, number, ticks } from "./figures.js";
import { layout, NODE } from "./graph.js";

const SIZE = { width: 560, height: 190, left: 44, right: 10, top: 10, bottom: 24 };

function frame(label) {
  return shape("svg", { class: "chart", viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": label });
}

function axis(svg, highest) {
  const marks = ticks(highest);
  const y = value => SIZE.height - SIZE.bottom - value / marks.at(-1) * (SIZE.height - SIZE.top - SIZE.bottom);
  for (const mark of marks) {
    svg.append(
      shape("line", { class: mark === 0 ? "base" : "grid", x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: y(mark), y2: y(mark) }),
      shape("text", { class: "tick end", x: SIZE.left - 8, y: y(mark) + 4 }, mark.toLocaleString("en", { notation: "compact" })));
  }
  return y;
}

/** A legend whose figures are the newest ones, or those below the pointer. */
function legend(place, series) {
  let list = place.querySelector("ul");
  if (!list) place.prepend(list = element("ul", { class: "legend" }));
  reconcile(list, series, one => one.name, one => element(
    "li", {}, element("span", { class: `key ${one.look}` }), element("b"), element("span", { class: "value" })),
  (node, one) => {
    setText(node.children[1], one.name);
    setText(node.children[2], one.text);
  });
}

function values(series, index) {
  return series.map(one => ({ ...one, text: one.values.length === 0 ? "–" : number(one.values.at(index).value) }));
}

/** Lines over the last minutes. `series`: [{name, look, values: [{at, value}]}], all at the same times. */
export function drawLines(place, series, now) {
  const label = values(series, -1).map(one => `${one.name} ${one.text}`).join(", ");
  const svg = frame(label);
  const y = axis(svg, Math.max(...series.flatMap(one => one.values.map(each => each.value)), 0));
  const first = Math.min(now, ...series.flatMap(one => one.values.slice(0, 1).map(each => each.at)));
  const span = Math.min(Math.max(1, Math.ceil((now - first) / 60_000)), KEPT / 60_000);
  const x = at => SIZE.width - SIZE.right - (now - at) / (span * 60_000) * (SIZE.width - SIZE.left - SIZE.right);
  for (let minutes = 0; minutes <= span; minutes++) {
    svg.append(shape("text", { class: minutes === 0 ? "tick end" : minutes === span ? "tick" : "tick middle", x: x(now - minutes * 60_000), y: SIZE.height - 6 },
      minutes === 0 ? "now" : `−${minutes} min`));
  }
  for (const one of series) {
    const points = one.values.map(each => `${x(each.at).toFixed(1)},${y(each.value).toFixed(1)}`);
    if (points.length > 1) svg.append(shape("polyline", { class: `line ${one.look}`, points: points.join(" ") }));
    if (points.length > 0) {
      const last = one.values.at(-1);
      svg.append(shape("circle", { class: `dot ${one.look}`, cx: x(last.at), cy: y(last.value), r: 3.5 }));
    }
  }
  const pointer = shape("line", { class: "pointer", y1: SIZE.top, y2: SIZE.height - SIZE.bottom, visibility: "hidden" });
  svg.append(pointer);
  const times = series[0].values.map(each => each.at);
  const point = event => {
    const box = svg.getBoundingClientRect();
    place.pointedAt = (event.clientX - box.left) / box.width * SIZE.width;
    show();
  };
  const show = () => {
    if (place.pointedAt === undefined || times.length === 0) {
      pointer.setAttribute("visibility", "hidden");
      return legend(place, values(series, -1));
    }
    const distance = index => Math.abs(x(times[index]) - place.pointedAt);
    const nearest = times.reduce((best, _, index) => distance(index) < distance(best) ? index : best, 0);
    pointer.setAttribute("x1", x(times[nearest]));
    pointer.setAttribute("x2", x(times[nearest]));
    pointer.setAttribute("visibility", "visible");
    legend(place, values(series, nearest));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerleave", () => {
    place.pointedAt = undefined;
    show();
  });
  place.querySelector("svg")?.remove();
  place.append(svg);
  show();
}

/** How many times were in each class. `counted`: [{end, count}]. */
export function drawClasses(place, counted, label) {
  const svg = frame(label);
  const y = axis(svg, Math.max(...counted.map(one => one.count), 0));
  const step = (SIZE.width - SIZE.left - SIZE.right) / Math.max(1, counted.length);
  const floor = SIZE.height - SIZE.bottom;
  counted.forEach((one, index) => {
    const x = SIZE.left + index * step;
    const words = one.end === Infinity ? "longer" : `up to ${endInWords(one.end)}`;
    const top = one.count === 0 ? floor : Math.min(y(one.count), floor - 1.5);
    const radius = Math.min(3, floor - top);
    const [left, right] = [x + 2, x + step - 2];
    svg.append(shape("g", { class: "class" },
      shape("title", {}, `${words}: ${number(one.count)}`),
      shape("rect", { class: "around", x, y: SIZE.top, width: step, height: floor - SIZE.top }),
      one.count === 0 ? null : shape("path", {
        class: "bar",
        d: `M${left},${floor}V${top + radius}q0,${-radius} ${radius},${-radius}H${right - radius}q${radius},0 ${radius},${radius}V${floor}Z`,
      })));
    if (index % 2 === 1 || counted.length < 8) {
      svg.append(shape("text", { class: "tick middle", x: x + step / 2, y: SIZE.height - 6 }, endInWords(one.end)));
    }
  });
  place.replaceChildren(svg);
}

/** Who or what a node is, in a line and in a second one. */
export function nodeInWords(node) {
  switch (node.kind) {
    case "lock": {
      const { permits, mode, waiting } = node.lock;
      const how = permits !== undefined ? `${permits} permit${permits === 1 ? "" : "s"}` : mode ?? "free";
      return [node.name, `${how} · ${number(waiting ?? 0)} waiting`];
    }
    case "more": return [`${number(node.count)} more`, node.verb];
    case "agent": {
      const { foreign, session, command, pid, host, owner, dead } = node.agent;
      if (foreign) return ["not a sidelock client", ""];
      if (session === undefined) return [host ?? "a host", dead ? "a host that is gone" : "another host"];
      const who = [pid === undefined ? `session ${session}` : `pid ${pid}`, owner, host].filter(word => word).join(" · ");
      // Where a program lies says little in so few characters.
      return [command ? command.replace(/^\S*\/(?=\S)/, "") : `session ${session}`, who];
    }
  }
}

/** The point of a node's border on the way from its middle to another point. */
function border(node, [x, y]) {
  const middle = [node.x + NODE.width / 2, node.y + NODE.height / 2];
  const [dx, dy] = [x - middle[0], y - middle[1]];
  const part = Math.min(NODE.width / 2 / Math.max(1e-9, Math.abs(dx)), NODE.height / 2 / Math.max(1e-9, Math.abs(dy)), 1);
  return [middle[0] + dx * part, middle[1] + dy * part];
}

function way(from, to, inRing) {
  const a = [from.x + NODE.width / 2, from.y + NODE.height / 2], b = [to.x + NODE.width / 2, to.y + NODE.height / 2];
  if (!inRing && from.x + NODE.width <= to.x) {
    const [x1, x2, bend] = [from.x + NODE.width, to.x - 6, Math.max(28, (to.x - from.x - NODE.width) / 2)];
    return `M${x1},${a[1]}C${x1 + bend},${a[1]} ${x2 - bend},${b[1]} ${x2},${b[1]}`;
  }
  // A bend to the left: two nodes that wait for each other have two edges.
  const length = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
  const bend = [(a[0] + b[0]) / 2 + (b[1] - a[1]) / length * 22, (a[1] + b[1]) / 2 - (b[0] - a[0]) / length * 22];
  const [start, end] = [border(from, bend), border(to, bend)];
  const back = Math.hypot(end[0] - bend[0], end[1] - bend[1]) || 1;
  const tip = [end[0] - (end[0] - bend[0]) / back * 6, end[1] - (end[1] - bend[1]) / back * 6];
  return `M${start}Q${bend} ${tip}`;
}

function edgeInWords(edge, from, to) {
  const time = edge.milliseconds === undefined ? "" : ` for ${age(edge.milliseconds)}`;
  return shown(`${nodeInWords(from)[0]} ${edge.kind === "waits" ? "waits for" : "is held by"} ${nodeInWords(to)[0]}${time}`);
}

/** Brings the times of a graph that is drawn up to date: all else is as it was. */
export function updateTimes(place, graph) {
  const byId = new Map(graph.nodes.map(node => [node.id, node]));
  const titles = place.querySelectorAll(".edge title");
  graph.edges.forEach((edge, index) => setText(titles[index], edgeInWords(edge, byId.get(edge.from), byId.get(edge.to))));
}

/** Draws the graph anew. `inspect` is called with the name of a lock that somebody has chosen. */
export function drawGraph(place, graph, inspect) {
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const margin = 12;
  const size = layout(graph, Math.max(700, place.clientWidth - 2 * margin));
  const byId = new Map(graph.nodes.map(node => [node.id, node]));
  const [width, height] = [size.width + 2 * margin, size.height + 2 * margin];
  const svg = shape("svg", {
    class: "graph", width, height, viewBox: `${-margin} ${-margin} ${width} ${height}`, role: "group",
    "aria-label": `${graph.nodes.filter(node => node.kind === "lock").length} locks that somebody waits for, ${graph.cycles.length} cycles`,
  });
  const arrow = look => shape("marker", {
    id: `arrow-${look}`, class: `arrow ${look}`, viewBox: "0 0 8 8", refX: 2, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto",
  }, shape("path", { d: "M0,0.5L7.5,4L0,7.5Z" }));
  svg.append(shape("defs", {}, ...["waits", "held", "cycle"].map(arrow)));
  for (const edge of graph.edges) {
    const [from, to] = [byId.get(edge.from), byId.get(edge.to)];
    const look = edge.inCycle ? "cycle" : edge.kind;
    svg.append(shape("path", {
      class: `edge ${edge.kind}${edge.inCycle ? " cycle" : ""}`, d: way(from, to, edge.inCycle), "marker-end": `url(#arrow-${look})`,
    }, shape("title", {}, edgeInWords(edge, from, to))));
  }
  for (const node of graph.nodes) svg.append(drawNode(node, inspect));
  place.replaceChildren(svg);
  if (focused !== undefined) [...svg.querySelectorAll("[tabindex]")].find(one => one.dataset.key === focused)?.focus();
}

function drawNode(node, inspect) {
  const [first, second] = nodeInWords(node);
  const group = shape("g", {
    class: `node ${node.kind}${node.inCycle ? " cycle" : ""}`, transform: `translate(${node.x.toFixed(1)},${node.y.toFixed(1)})`,
  },
  shape("title", {}, shown(`${first} ${second}`)),
  shape("rect", { width: NODE.width, height: NODE.height, rx: node.kind === "lock" ? 6 : NODE.height / 2 }),
  shape("text", { class: "first", x: NODE.width / 2, y: second ? 20 : 28 }, cut(first, 22)),
  shape("text", { class: "second", x: NODE.width / 2, y: 36 }, cut(second, 29)));
  if (node.kind === "lock") {
    const choose = () => inspect(node.name);
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "button");
    group.setAttribute("aria-label", shown(`Inspect ${first}`));
    group.dataset.key = node.id;
    group.addEventListener("click", choose);
    group.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose();
    });
  }
  return group;
}
