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
  let fitting = [];
  const show = () => {
    const told = new FormData(form);
    const became = new Set(told.getAll("became"));
    const words = String(told.get("text")).toLowerCase().split(/\s+/).filter(Boolean);
    fitting = examples.filter((one) => (told.get("task") === "" || told.get("task") === one.task)
      && became.has(one.became) && words.every((word) => one.text.includes(word)));
    for (const one of examples) one.node.hidden = true;
    for (const one of fitting.slice(0, most)) one.node.hidden = false;
    empty.hidden = fitting.length > 0;
    more.hidden = fitting.length <= most;
    output.textContent = more.hidden ? `${fitting.length} shown` : `${most} of ${fitting.length} shown`;
  };
  more.addEventListener("click", () => {
    const from = most;
    most += 40;
    show();
    fitting[from].node.focus();
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
