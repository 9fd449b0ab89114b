// Runs before the first paint, so that a chosen theme never flashes. Without a choice the system's holds.
"use strict";
(() => {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
