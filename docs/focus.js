// What is wider than its place and scrolls can be reached, and scrolled, by the keyboard.
const reachable = new ResizeObserver((changes) => {
  for (const { target } of changes) {
    if (target.scrollWidth > target.clientWidth) target.setAttribute("tabindex", "0");
    else target.removeAttribute("tabindex");
  }
});
document$.subscribe(({ body }) => requestAnimationFrame(() => {
  for (const wide of body.querySelectorAll(".md-typeset__scrollwrap, .katex-display")) reachable.observe(wide);
}));
