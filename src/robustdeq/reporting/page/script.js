"use strict";
(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const sections = [...document.querySelectorAll(".run")];
  const radios = [...document.querySelectorAll("#runs input")];
  const toggle = document.getElementById("theme");
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const theme = () => root.dataset.theme ?? (prefersDark.matches ? "dark" : "light");

  const reachable = (region) => {
    const wide = region.scrollWidth > region.clientWidth;
    if (wide) region.tabIndex = 0;
    else region.removeAttribute("tabindex");
    region.previousElementSibling.hidden = !wide;
  };

  const refresh = () => {
    document.querySelectorAll(".scroll").forEach(reachable);
    toggle.setAttribute("aria-pressed", String(theme() === "dark"));
  };

  const choose = (slug) => {
    sections.forEach((section) => section.classList.toggle("chosen", section.dataset.run === slug));
    radios.forEach((radio) => (radio.checked = radio.value === slug));
    refresh();
  };

  const follow = () => {
    const [slug, place] = location.hash.slice(1).split("/");
    if (sections.some((section) => section.dataset.run === slug)) {
      choose(slug);
      if (place) document.getElementById(`${slug}/${place}`)?.scrollIntoView();
    } else if (!document.querySelector(".run.chosen")) choose(sections[0].dataset.run);
  };

  const animate = (player) => {
    const [button, slider] = player.querySelectorAll("button, input");
    const steps = [...player.querySelectorAll(".step")];
    let timer;
    const name = () => (button.textContent = timer ? "Pause" : still.matches ? "Next state" : "Play");
    const show = (n) => {
      steps.forEach((step, i) => (step.hidden = i !== n));
      slider.value = n;
      slider.setAttribute("aria-valuetext", steps[n].dataset.state);
    };
    const pause = () => {
      timer = clearInterval(timer);
      name();
    };
    const next = () => {
      show((slider.valueAsNumber + 1) % steps.length);
      if (slider.value === slider.max) pause();
    };
    button.addEventListener("click", () => {
      if (timer) return pause();
      next();
      if (!still.matches) timer = setInterval(next, 800);
      name();
    });
    slider.addEventListener("input", () => {
      pause();
      show(slider.valueAsNumber);
    });
    still.addEventListener("change", pause);
    player.querySelector(".controls").hidden = false;
    show(steps.length - 1);
    name();
  };

  addEventListener("resize", () => requestAnimationFrame(refresh));
  addEventListener("hashchange", follow);
  prefersDark.addEventListener("change", refresh);
  document.addEventListener("toggle", (event) => event.target.querySelectorAll(".scroll").forEach(reachable), true);
  toggle.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    refresh();
  });
  radios.forEach((radio) =>
    radio.addEventListener("change", () => {
      choose(radio.value);
      history.pushState(null, "", `#${radio.value}/`);
    }),
  );

  document.querySelectorAll(".player").forEach(animate);
  toggle.hidden = false;
  document.getElementById("runs")?.removeAttribute("hidden");
  root.classList.add("scripted");
  follow();
})();
