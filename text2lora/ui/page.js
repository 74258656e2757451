() => {
  // a strength counts once it is entered, or once the slider rests and no key is held; Gradio alone takes what is half
  // typed for a strength, an empty box for none, and no key on the slider
  const slider = "#scale input[type=range]";
  const box = "#scale input[type=number]";
  for (const [type, own] of [["input", box], ["blur", box], ["pointerup", `${box}, ${slider}`]]) {
    const keep = (event) => event.isTrusted && event.target.matches?.(own) && event.stopPropagation();
    document.addEventListener(type, keep, true);
  }
  let used, changed, held;
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(box)) used = event.target.value;
  });
  const settle = (event) => {
    if (event.type !== "change") held = event.type === "keydown";
    else if (event.target.matches(`${box}, ${slider}`)) changed = event.target;
    if (held || !changed) return;
    const number = document.querySelector(box);
    if (changed === number) {
      number.value = Math.min(Math.max(number.value || used, number.min), number.max);
      number.dispatchEvent(new Event("input", { bubbles: true }));
    }
    if (changed !== number || number.value !== used) number.dispatchEvent(new FocusEvent("blur"));
    used = number.value;
    changed = null;
  };
  for (const type of ["keydown", "change", "keyup"]) document.addEventListener(type, settle, true);
  // the columns stand below each other on a phone: what a button makes is out of sight there
  window.text2loraShow = (id) => {
    const stacked = matchMedia("(max-width: 640px)").matches;
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.getElementById(id).scrollIntoView({
      block: stacked ? "start" : "nearest",
      behavior: still ? "auto" : "smooth",
    });
  };
}
