// Runs before the first paint: a person's choice of theme over the system's.
"use strict";
{
  let theme = null;
  try {
    theme = localStorage.getItem("pagedc-theme");
  } catch {
    // storage is switched off
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
