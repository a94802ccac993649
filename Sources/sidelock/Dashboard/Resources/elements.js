// Making and changing elements. Texts come from other users: they become text nodes and attributes, and never markup.

const SVG = "http://www.w3.org/2000/svg";
// Spaces at an end or side by side, and other characters that look like them, too: a browser shows one space or none for each.
const odd = /^ +| +$| {2,}|(?! )[\p{Cc}\p{Cf}\p{Zs}\p{Zl}\p{Zp}\p{Cs}\p{Cn}\u115f\u1160\u2800\u3164\uffa0]/gu;

/** A text in which nothing is hidden: what has no shape of its own, or turns the line around, is written as `\u{…}`. */
export function shown(text) {
  return String(text).replace(odd, characters => [...characters].map(one => `\\u{${one.codePointAt(0).toString(16)}}`).join(""));
}

/** The beginning of a text, of so many characters. */
export function cut(text, characters) {
  const all = [...shown(text)];
  return all.length > characters ? all.slice(0, characters - 1).join("") + "…" : all.join("");
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

/** An element of HTML. A function among the attributes hears the event of that name. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An element of SVG. */
export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** Sets an element's text, if it is another one: what is unchanged is not read out again, and stays selected. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Makes what is in a node like what is in another one, which is used up. What is alike stays, and with it the focus, what is
 * selected, and a click that has begun.
 */
export function become(node, other) {
  const [before, after] = [[...node.childNodes], [...other.childNodes]];
  after.forEach((one, index) => {
    const old = before[index];
    if (!old) node.append(one);
    else if (old.nodeName !== one.nodeName || old.dataset?.token !== one.dataset?.token) old.replaceWith(one);
    else if (old.nodeType === Node.TEXT_NODE) setText(old, one.data);
    else {
      old.className = one.className;
      become(old, one);
    }
  });
  for (const old of before.slice(after.length)) old.remove();
}

/**
 * Makes the children of a node those of `items`, in their order. What is there stays, and with it the focus and what is selected.
 * `update` is called with each item and its node.
 */
export function reconcile(parent, items, key, make, update) {
  const before = new Map([...parent.children].map(child => [child.dataset.key, child]));
  const nodes = items.map(item => {
    const name = key(item);
    let node = before.get(name);
    before.delete(name);
    if (!node) {
      node = make(item);
      node.dataset.key = name;
    }
    update(node, item);
    return node;
  });
  // First of all, so that nothing has to move up.
  for (const node of before.values()) node.remove();
  // What moves loses the focus.
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let place = parent.firstElementChild;
  for (const node of nodes) {
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
  }
  if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
}
