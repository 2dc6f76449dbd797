// Sort the tables of a report by a click on a column's title; averages stay at the bottom.
"use strict";
(function () {
  function key(row, column) {
    const cell = row.cells[column];
    const value = cell.dataset.v;
    return value === undefined ? cell.textContent.trim().toLowerCase() : value === "" ? NaN : Number(value);
  }
  function compare(a, b, sign) {
    if (typeof a === "number" && typeof b === "number") {
      if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b); // missing values last, both ways
      return sign * (a - b);
    }
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  }
  function sort(title, column) {
    const table = title.closest("table");
    const body = table.tBodies[0];
    const numeric = body.rows.length > 0 && body.rows[0].cells[column].dataset.v !== undefined;
    const before = title.getAttribute("aria-sort");
    const order = before === null ? (numeric ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows);
    const moved = rows.filter((row) => !row.classList.contains("average"));
    const fixed = rows.filter((row) => row.classList.contains("average"));
    moved.sort((a, b) => compare(key(a, column), key(b, column), sign));
    body.append(...moved, ...fixed);
    for (const other of title.parentElement.cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", order);
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((title, column) => {
      title.tabIndex = 0;
      title.title = "sort by this column";
      title.addEventListener("click", () => sort(title, column));
      title.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        sort(title, column);
      });
    });
  }
})();
