"use strict";
const tip = document.createElement("div");
tip.id = "tip";
document.body.append(tip);
// The browser's own tooltip would come up beside this one.
for (const title of document.querySelectorAll("[data-tip] > title")) title.remove();
document.addEventListener("pointermove", (event) => {
  const point = event.target.closest("[data-tip]");
  tip.style.display = point ? "block" : "none";
  if (!point) return;
  tip.textContent = point.dataset.tip;
  const right = Math.max(0, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16;
  const fits = below + tip.offsetHeight < innerHeight;
  tip.style.left = Math.min(event.clientX + 12, right) + "px";
  tip.style.top = (fits ? below : event.clientY - tip.offsetHeight - 8) + "px";
});
