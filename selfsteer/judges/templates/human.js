// Keys press the buttons that show them. The page works without this script.
const form = document.forms[0];
let sent = false;
form.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
addEventListener("pageshow", () => { sent = false; });
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const button = [...form.elements].find((element) => element.dataset.key === event.key.toLowerCase());
  if (button) button.click();
});
history.scrollRestoration = "manual";
