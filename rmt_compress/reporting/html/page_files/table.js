"use strict";
// The table of layers: open a layer, fold blocks, sort, filter.
(() => {
  const table = document.getElementById("layer-table");
  if (table === null) return;
  const find = document.getElementById("find");
  const choose = document.getElementById("choose");
  const fold = document.getElementById("fold");
  const shown = document.getElementById("shown");
  const bodies = [...table.tBodies];
  const members = [...table.querySelectorAll("tr.member")];
  const text = new Map(members.map((row) => [row, row.textContent.toLowerCase()]));
  const viewOf = (row) => row.nextElementSibling;
  const nameOf = new Intl.Collator(undefined, { numeric: true });

  function open(row, wanted) {
    const view = viewOf(row);
    row.querySelector("button.open").setAttribute("aria-expanded", String(wanted));
    view.hidden = !wanted || row.hidden;
    if (!view.hidden && window.drawPictures) window.drawPictures(view);
  }

  const isOpen = (row) => row.querySelector("button.open").getAttribute("aria-expanded") === "true";

  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (row) =>
      words.every((word) => text.get(row).includes(word)) && (!choose.value || row.dataset.word === choose.value);
    let count = 0;
    const narrowed = words.length > 0 || choose.value !== "";
    for (const body of bodies) {
      const block = body.querySelector("tr.block");
      const own = [...body.querySelectorAll("tr.member")];
      const found = own.filter(matches);
      count += found.length;
      const folded = block !== null && (fold === null || fold.checked);
      const unfolded = !folded || block.querySelector("button").getAttribute("aria-expanded") === "true";
      if (block !== null) block.hidden = !folded || found.length === 0;
      for (const row of own) {
        row.hidden = !found.includes(row) || !(unfolded || narrowed);
        row.classList.toggle("in-block", folded);
        open(row, isOpen(row));
      }
    }
    shown.textContent = `${count} of ${members.length} layers`;
  }

  const valueOf = (row, key) => (key === "name" ? row.dataset.name : JSON.parse(row.dataset.orders)[key]);

  function compared(first, second, key, sign) {
    const [a, b] = [valueOf(first, key), valueOf(second, key)];
    // What has no value stands last, whichever way the others stand.
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? a - b : nameOf.compare(a, b));
  }

  function sort(header, button) {
    const ways = { ascending: "descending", descending: "none", none: "ascending" };
    const way = ways[header.getAttribute("aria-sort") || "none"];
    for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
    const sign = way === "descending" ? -1 : 1;
    const key = button.dataset.key;
    if (way !== "none") header.setAttribute("aria-sort", way);
    const leading = (body) => body.querySelector("tr.block") || body.querySelector("tr.member");
    const placed = [...bodies].sort((a, b) =>
      way === "none" ? a.dataset.place - b.dataset.place : compared(leading(a), leading(b), key, sign));
    for (const body of placed) {
      const own = members.filter((row) => row.parentElement === body);
      if (way !== "none") own.sort((a, b) => compared(a, b, key, sign));
      for (const row of own) {
        const view = viewOf(row);
        body.append(row, view);
      }
      table.append(body);
    }
  }

  table.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button === null) return;
    const row = button.closest("tr");
    if (button.classList.contains("open")) open(row, !isOpen(row));
    else if (button.classList.contains("unfold")) {
      button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
      filter();
    } else sort(button.closest("th"), button);
  });
  find.addEventListener("input", filter);
  choose.addEventListener("change", filter);
  if (fold !== null) fold.addEventListener("change", filter);
  filter();
})();
