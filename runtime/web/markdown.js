// The little of Markdown that models write, as DOM nodes: no HTML is ever parsed, links are text.

const INLINE = /(`+)([^`]+)\1|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*/g;

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    if (match[2] !== undefined) nodes.push(element("code", { textContent: match[2] }));
    else if (match[3] !== undefined) nodes.push(element("strong", { textContent: match[3] }));
    else nodes.push(element("em", { textContent: match[4] }));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes.filter((node) => node !== "");
}

function lines(texts) {
  return texts.flatMap((text, i) => (i ? [element("br"), ...inline(text)] : inline(text)));
}

const ITEM = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const HEADING = /^(#{1,6})\s+(.*)$/;

export function render(text) {
  const fragment = document.createDocumentFragment();
  const all = text.split("\n");
  let i = 0;
  while (i < all.length) {
    const line = all[i];
    const fence = /^\s*(```+|~~~+)\s*([\w+-]*)/.exec(line);
    if (fence) {
      const code = [];
      for (i += 1; i < all.length && !all[i].trim().startsWith(fence[1]); i += 1) code.push(all[i]);
      i += 1;
      const pre = element("pre", { tabIndex: 0 }, element("code", { textContent: code.join("\n") }));
      if (fence[2]) pre.dataset.language = fence[2];
      fragment.append(pre);
    } else if (HEADING.test(line)) {
      const [, marks, title] = HEADING.exec(line);
      fragment.append(element(`h${Math.min(marks.length + 3, 6)}`, {}, ...inline(title)));
      i += 1;
    } else if (ITEM.test(line)) {
      const first = ITEM.exec(line);
      const list = element(first[2] ? "ol" : "ul");
      if (first[2]) list.start = Number(first[2]);
      for (let item; i < all.length && (item = ITEM.exec(all[i])); i += 1) list.append(element("li", {}, ...inline(item[3])));
      fragment.append(list);
    } else if (line.trim() === "") {
      i += 1;
    } else {
      const paragraph = [];
      for (; i < all.length && all[i].trim() && !/^\s*(```|~~~)/.test(all[i]) && !ITEM.test(all[i]) && !HEADING.test(all[i]); i += 1)
        paragraph.push(all[i]);
      fragment.append(element("p", {}, ...lines(paragraph)));
    }
  }
  return fragment;
}
