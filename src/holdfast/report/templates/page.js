"use strict";
document.documentElement.classList.remove("no-script");

for (const box of document.querySelectorAll("[data-command]")) {
  const button = box.querySelector("button");
  const code = box.querySelector("code");
  const said = box.querySelector("[role=status]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    said.textContent = done ? "copied" : "selected: copy it with your keyboard";
    setTimeout(() => { said.textContent = ""; }, 3000);
  });
}

for (const form of document.querySelectorAll("form.filters")) {
  const part = form.closest("section");
  const examples = Array.from(part.querySelectorAll(".example"), (node) => ({
    node, task: node.dataset.task, became: node.dataset.became, text: node.textContent.toLowerCase(),
  }));
  const empty = part.querySelector(".empty");
  const output = form.querySelector("output");
  const more = part.querySelector(".more");
  let most = 40;
  const show = () => {
    const told = new FormData(form);
    const became = new Set(told.getAll("became"));
    const words = String(told.get("text")).toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const one of examples) {
      const fits = (told.get("task") === "" || told.get("task") === one.task)
        && became.has(one.became) && words.every((word) => one.text.includes(word));
      count += fits ? 1 : 0;
      one.node.hidden = !fits || count > most;
    }
    empty.hidden = count > 0;
    more.hidden = count <= most;
    output.textContent = count > most ? `${most} of ${count} shown` : `${count} shown`;
  };
  more.addEventListener("click", () => {
    const first = examples.find((one, k) => one.node.hidden && k >= most);
    most += 40;
    show();
    if (first) first.node.focus({ preventScroll: true });
  });
  form.addEventListener("input", () => { most = 40; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  show();
}

const folded = Array.from(document.querySelectorAll("details"));
let open = [];
addEventListener("beforeprint", () => {
  open = folded.filter((one) => one.open);
  for (const one of folded) one.open = true;
});
addEventListener("afterprint", () => {
  for (const one of folded) one.open = open.includes(one);
});
