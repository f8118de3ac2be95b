"use strict";
window.reportData = JSON.parse(document.getElementById("data").textContent); // for the scripts below
/* The leaderboard: buttons in the head sort, a field filters rows, a list picks a benchmark. */
(() => {
  const table = document.getElementById("board");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  const filter = document.getElementById("board-filter");
  const task = document.getElementById("board-task");
  const count = document.getElementById("board-count");
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  /* Empty cells come last in either direction. */
  function compare(a, b, down) {
    const empty = (a.textContent === "") - (b.textContent === "");
    if (empty) return empty;
    const [x, y] = [a.dataset.key, b.dataset.key];
    const order = x !== undefined && y !== undefined
      ? Number(x) - Number(y)
      : a.textContent.localeCompare(b.textContent, "en", { numeric: true });
    return down ? -order : order;
  }

  function sort(place) {
    const down = heads[place].getAttribute("aria-sort") === "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[place].setAttribute("aria-sort", down ? "descending" : "ascending");
    rows.sort((a, b) => compare(a.cells[place], b.cells[place], down));
    body.append(...rows);
  }

  function narrow() {
    const terms = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !terms.every((word) => words.get(row).includes(word));
      shown += !row.hidden;
    }
    count.value = `${shown} of ${rows.length} rows`;
  }

  function pick() {
    heads.forEach((head, place) => {
      const hidden = Boolean(task.value && head.dataset.task && head.dataset.task !== task.value);
      head.hidden = hidden;
      for (const row of rows) row.cells[place].hidden = hidden;
    });
  }

  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => sort(place)));
  filter.addEventListener("input", narrow);
  if (task) task.addEventListener("change", pick);
  document.getElementById("board-controls").addEventListener("submit", (event) => event.preventDefault());
  narrow();
})();
