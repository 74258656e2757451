() => {
  // a strength that is typed counts on Enter too, not only once the box is left
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("#scale input[type=number]")) {
      event.target.dispatchEvent(new FocusEvent("blur"));
    }
  });
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
