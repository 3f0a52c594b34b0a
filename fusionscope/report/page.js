"use strict";
// Draws every chart from the data block; window.pageReady resolves when all are drawn.
window.pageReady = (async () => {
  const { config, charts } = JSON.parse(document.getElementById("chart-data").textContent);
  const options = { actions: false, renderer: "svg", config, tooltip: { theme: "custom" }, ast: true };
  for (const box of document.querySelectorAll("[data-chart]")) {
    const label = box.getAttribute("aria-label");
    try {
      const spec = charts[box.dataset.chart];
      if (!spec) throw new Error(`no chart named ${box.dataset.chart}`);
      await vegaEmbed(box, { ...spec, description: label }, options);
    } catch (error) {
      console.error(String(error));
      box.textContent = "This chart could not be drawn; the tables hold the same numbers.";
    }
    // The box carries the words; the parts of the drawing would only be noise to a screen reader.
    box.setAttribute("role", "img");
    for (const svg of box.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
  }
})();
