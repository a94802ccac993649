// Who waits for whom: the graph, its cycles, and where each node is drawn. Nothing here touches the page.

/** The size of a node. */
export const NODE = { width: 182, height: 46 };
/** Who waits for one lock, or holds it, and is drawn; of others the number. */
export const SHOWN = 6;
/** Nodes of one knot of cycles that are drawn; of a longer one the number is told. A ring of very many would be too large to see. */
export const RING_MAX = 24;

const GAP = { column: 54, row: 16, part: 34 };

/** Items by what a function gives of each. */
function grouped(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  return groups;
}

/** The same key for one thread or task of a client, wherever it is told of. */
function agentKey(one, lock) {
  if (one.foreign) return JSON.stringify(["foreign", lock]);
  if (one.session === undefined) return JSON.stringify(["host", one.host ?? ""]);
  return JSON.stringify(["session", one.host ?? "", one.session, one.owner ?? ""]);
}

/** Those that are drawn: first whoever is at another place of the graph, too, so that no cycle is left out. */
function drawn(people, lock, elsewhere) {
  const first = people.filter(one => elsewhere.has(agentKey(one, lock)));
  const rest = people.filter(one => !elsewhere.has(agentKey(one, lock)));
  return [...first, ...rest.slice(0, Math.max(0, SHOWN - first.length))];
}

/**
 * The graph of locks as `inspect` tells of them: `nodes` (`kind` is lock, agent or more) and `edges`, from who waits to the lock and
 * from the lock to who holds it. `cycles` are lists of nodes, each of which waits for, or is held by, the next one. A node or edge
 * that is part of one has `inCycle`. A semaphore is part of none: any of its holders may give way. `leftOut` counts the nodes of long
 * cycles that are missing, and those that have to do with these alone.
 */
export function waitsFor(locks) {
  const nodes = new Map(), edges = [];
  const add = node => nodes.get(node.id) ?? (nodes.set(node.id, node), node);
  const holders = new Set(locks.flatMap(lock => lock.holders.map(one => agentKey(one, lock.name))));
  const waiters = new Set(locks.flatMap(lock => (lock.waiters ?? []).map(one => agentKey(one, lock.name))));
  for (const lock of locks) {
    const id = JSON.stringify(["lock", lock.name]);
    add({ id, kind: "lock", name: lock.name, lock });
    const waiting = drawn(lock.waiters ?? [], lock.name, holders);
    for (const one of waiting) {
      const agent = add({ id: agentKey(one, lock.name), kind: "agent", agent: one });
      edges.push({ from: agent.id, to: id, kind: "waits", milliseconds: one.waited_ms });
    }
    const left = Math.max(lock.waiting ?? 0, (lock.waiters ?? []).length) - waiting.length;
    if (left > 0) {
      const more = add({ id: JSON.stringify(["more waiters", lock.name]), kind: "more", count: left, verb: "wait" });
      edges.push({ from: more.id, to: id, kind: "waits" });
    }
    const holding = drawn(lock.holders, lock.name, waiters);
    for (const one of holding) {
      const agent = add({ id: agentKey(one, lock.name), kind: "agent", agent: one });
      edges.push({ from: id, to: agent.id, kind: "held", milliseconds: one.held_ms, mayGiveWay: lock.permits !== undefined });
    }
    const others = Math.max(lock.holding ?? 0, lock.holders.length) - holding.length;
    if (others > 0) {
      const more = add({ id: JSON.stringify(["more holders", lock.name]), kind: "more", count: others, verb: "hold it" });
      edges.push({ from: id, to: more.id, kind: "held" });
    }
  }
  const graph = { nodes: [...nodes.values()], edges, cycles: [], leftOut: 0 };
  const parts = knots(graph);
  for (const node of graph.nodes) node.knot = parts.get(node.id);
  for (const edge of edges) {
    edge.inCycle = !edge.mayGiveWay && nodes.get(edge.from).knot === nodes.get(edge.to).knot;
    if (edge.inCycle) nodes.get(edge.from).inCycle = nodes.get(edge.to).inCycle = true;
  }
  shorten(graph);
  const knotted = grouped(graph.nodes.filter(node => node.inCycle), node => node.knot);
  graph.cycles = [...knotted.values()].map(members => shortestCycle(members[0], graph));
  return graph;
}

/** Leaves out what is too much of each knot: a node stands for it, which closes the ring. */
function shorten(graph) {
  for (const [knot, members] of grouped(graph.nodes.filter(node => node.inCycle), node => node.knot)) {
    if (members.length <= RING_MAX) continue;
    const way = shortestCycle(members[0], graph);
    const ring = [...way, ...members.filter(node => !way.includes(node))];
    const kept = ring.slice(0, RING_MAX - 1), gone = new Set(ring.slice(RING_MAX - 1).map(node => node.id));
    const more = { id: JSON.stringify(["more of a cycle", knot]), kind: "more", count: gone.size, verb: "in this cycle", knot, inCycle: true };
    graph.nodes = [...graph.nodes.filter(node => !gone.has(node.id)), more];
    graph.edges = graph.edges.filter(edge => !gone.has(edge.from) && !gone.has(edge.to));
    graph.edges.push({ from: kept.at(-1).id, to: more.id, kind: "held", inCycle: true }, { from: more.id, to: kept[0].id, kind: "waits", inCycle: true });
    graph.leftOut += gone.size;
  }
  if (graph.leftOut === 0) return;
  // Who waits for a lock that is left out, and has nothing else to do with what is drawn, would stand there for no reason.
  const joined = new Set(graph.edges.flatMap(edge => [edge.from, edge.to]));
  graph.leftOut += graph.nodes.filter(node => !joined.has(node.id)).length;
  graph.nodes = graph.nodes.filter(node => joined.has(node.id));
}

/** The strongly connected components (Tarjan): a number for each node, the same where each reaches the other. */
function knots({ nodes, edges }) {
  const next = grouped(edges.filter(edge => !edge.mayGiveWay), edge => edge.from);
  const index = new Map(), low = new Map(), knot = new Map(), stack = [];
  let knotsFound = 0;
  const visit = id => {
    index.set(id, index.size);
    low.set(id, index.get(id));
    stack.push(id);
    for (const { to } of next.get(id) ?? []) {
      if (!index.has(to)) visit(to);
      if (!knot.has(to)) low.set(id, Math.min(low.get(id), low.get(to)));
    }
    if (low.get(id) !== index.get(id)) return;
    knotsFound += 1;
    for (let member; member !== id;) {
      member = stack.pop();
      knot.set(member, knotsFound);
    }
  };
  for (const { id } of nodes) if (!index.has(id)) visit(id);
  return knot;
}

/** A shortest way from a node back to itself. */
function shortestCycle(start, { nodes, edges }) {
  const byId = new Map(nodes.map(node => [node.id, node]));
  const next = grouped(edges.filter(edge => edge.inCycle), edge => edge.from);
  const cameFrom = new Map(), queue = [start.id];
  for (const id of queue) {
    for (const { to } of next.get(id) ?? []) {
      if (to === start.id) {
        const way = [];
        for (let at = id; at !== undefined; at = cameFrom.get(at)) way.unshift(byId.get(at));
        return way;
      }
      if (!cameFrom.has(to) && to !== start.id) {
        cameFrom.set(to, id);
        queue.push(to);
      }
    }
  }
  return [start];
}

/**
 * Where each node is drawn: `x` and `y` of its upper left corner are set, and the size of the whole is given. Who waits stands left of
 * what it waits for; the nodes of a cycle stand in a ring.
 */
export function layout(graph, widthMax) {
  const rows = [];
  for (const part of components(graph).map(laidOut)) {
    let row = rows.find(one => one.width + GAP.part + part.width <= widthMax);
    if (!row) rows.push(row = { parts: [], width: -GAP.part, height: 0 });
    row.parts.push(part);
    row.width += GAP.part + part.width;
    row.height = Math.max(row.height, part.height);
  }
  let y = 0;
  for (const row of rows) {
    let x = 0;
    for (const part of row.parts) {
      for (const node of part.nodes) {
        node.x += x;
        node.y += y + (row.height - part.height) / 2;
      }
      x += part.width + GAP.part;
    }
    y += row.height + GAP.part;
  }
  return { width: Math.max(0, ...rows.map(row => row.width)), height: Math.max(0, y - GAP.part) };
}

/** The parts of the graph that have nothing to do with each other; those with cycles first, then the large ones. */
function components({ nodes, edges }) {
  const root = new Map(nodes.map(node => [node.id, node.id]));
  const find = id => {
    while (root.get(id) !== id) id = root.get(id);
    return id;
  };
  for (const { from, to } of edges) root.set(find(from), find(to));
  const parts = [...grouped(nodes, node => find(node.id)).values()].map(members => {
    const ids = new Set(members.map(node => node.id));
    return { nodes: members, edges: edges.filter(edge => ids.has(edge.from)) };
  });
  const weight = part => (part.nodes.some(node => node.inCycle) ? 1e6 : 0) + part.nodes.length;
  return parts.sort((a, b) => weight(b) - weight(a));
}

/** One part: blocks in columns, each of one node or of a ring. */
function laidOut({ nodes, edges }) {
  const blocks = blocksOf(nodes, edges);
  const blockOf = new Map(blocks.flatMap(block => block.nodes.map(node => [node.id, block])));
  for (const { from, to } of edges) {
    const [a, b] = [blockOf.get(from), blockOf.get(to)];
    if (a !== b) {
      a.after.add(b);
      b.before.add(a);
    }
  }
  // Semaphores may leave circles among the blocks; the way into one is not followed twice.
  const column = (block, way) => {
    if (block.column === undefined) {
      const before = [...block.before].filter(one => !way.includes(one));
      block.column = Math.max(-1, ...before.map(one => column(one, [...way, block]))) + 1;
    }
    return block.column;
  };
  blocks.forEach(block => column(block, []));
  // Who only waits stands beside what it waits for.
  for (const block of blocks) {
    if (block.before.size === 0 && block.after.size > 0) block.column = Math.max(0, Math.min(...[...block.after].map(one => one.column)) - 1);
  }
  const columns = [];
  for (const block of blocks) (columns[block.column] ??= []).push(block);
  for (let index = 0; index < columns.length; index++) columns[index] ??= [];
  for (const sweep of [1, -1, 1]) {
    for (const blocksHere of sweep > 0 ? columns : [...columns].reverse()) {
      blocksHere.forEach((block, place) => {
        const near = [...(sweep > 0 ? block.before : block.after)];
        const sum = near.reduce((total, one) => total + (one.place ?? 0), 0);
        block.wish = near.length > 0 ? sum / near.length : place / Math.max(1, blocksHere.length);
      });
      blocksHere.sort((a, b) => a.wish - b.wish);
      blocksHere.forEach((block, place) => { block.place = (place + 0.5) / blocksHere.length; });
    }
  }
  const heightOf = blocksHere => blocksHere.reduce((sum, block) => sum + block.height + GAP.row, -GAP.row);
  const height = Math.max(...columns.map(heightOf));
  let x = 0;
  for (const blocksHere of columns) {
    const width = Math.max(0, ...blocksHere.map(block => block.width));
    let y = (height - heightOf(blocksHere)) / 2;
    for (const block of blocksHere) {
      const left = x + (width - block.width) / 2;
      for (const node of block.nodes) {
        node.x += left;
        node.y += y;
      }
      y += block.height + GAP.row;
    }
    x += width + GAP.column;
  }
  return { nodes, width: x - GAP.column, height };
}

function blocksOf(nodes, edges) {
  const rings = grouped(nodes, node => node.inCycle ? `ring ${node.knot}` : node.id);
  return [...rings.values()].map(members => {
    const block = { nodes: members, before: new Set(), after: new Set(), width: NODE.width, height: NODE.height };
    if (members.length === 1) {
      members[0].x = members[0].y = 0;
      return block;
    }
    const way = shortestCycle(members[0], { nodes: members, edges: edges.filter(edge => edge.inCycle) });
    const ring = [...way, ...members.filter(node => !way.includes(node))];
    const across = Math.max(186, (NODE.width + 40) / (2 * Math.sin(Math.PI / ring.length)));
    const down = Math.max(84, across * 0.46);
    ring.forEach((node, index) => {
      const angle = -3 * Math.PI / 4 + 2 * Math.PI * index / ring.length;
      node.x = across * Math.cos(angle);
      node.y = down * Math.sin(angle);
    });
    const [left, top] = [Math.min(...ring.map(node => node.x)), Math.min(...ring.map(node => node.y))];
    for (const node of ring) {
      node.x -= left;
      node.y -= top;
    }
    block.width = Math.max(...ring.map(node => node.x)) + NODE.width;
    block.height = Math.max(...ring.map(node => node.y)) + NODE.height;
    return block;
  });
}

/** A text that is the same for graphs that are drawn alike but for times. `words` gives what a node says. */
export function likeness({ nodes, edges }, words) {
  return JSON.stringify([nodes.map(node => [node.id, words(node)]), edges.map(edge => [edge.from, edge.to, edge.inCycle])]);
}

/** A cycle in words: who waits for what, held by whom. `name` gives the words for a node. */
export function cycleInWords(cycle, name) {
  const start = Math.max(0, cycle.findIndex(node => node.kind === "agent"));
  const turned = [...cycle.slice(start), ...cycle.slice(0, start)];
  const links = turned.map((node, index) => {
    if (node.kind === "lock") return `${name(node)}, which is held by`;
    if (node.kind === "more") return `${name(node)}, which end with who waits for`;
    return index === 0 ? `${name(node)} waits for` : `${name(node)}, which waits for`;
  });
  return `${links.join(" ")} ${name(turned[0])}`;
}
