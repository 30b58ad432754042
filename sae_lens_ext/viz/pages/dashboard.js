"use strict";
const table = document.getElementById("features");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const search = document.getElementById("search");
const shown = document.getElementById("shown");

search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(word => word);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
    if (!row.hidden) count += 1;
  }
  shown.textContent = `${count} features`;
});

function key(row, column, isNumber) {
  const cell = row.cells[column];
  if (!isNumber) return cell.textContent;
  // A feature that was never active comes last either way.
  return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
}

function compared(a, b) {
  if (typeof a === "string") return a.localeCompare(b);
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return a - b;
}

Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
  const button = header.querySelector("button");
  button.addEventListener("click", () => {
    const falls = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const isNumber = button.dataset.number === "1";
    const keyed = rows.map(row => [key(row, column, isNumber), row]);
    keyed.sort((a, b) => {
      const order = compared(a[0], b[0]);
      const isMissing = Number.isNaN(a[0]) || Number.isNaN(b[0]);
      return falls && !isMissing ? -order : order;
    });
    body.append(...keyed.map(pair => pair[1]));
  });
});
