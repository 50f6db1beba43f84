(() => {
  // Names typed below the pictures; they leave the page as names.csv.
  const bar = document.querySelector("#naming");
  if (!bar) return;
  const inputs = [...document.querySelectorAll("input[data-cluster]")];
  const save = bar.querySelector("#save"), key = `labelsieve names ${bar.dataset.key}`;
  const names = () => inputs.map((input) => [Number(input.dataset.cluster), input.value.trim()])
    .filter(([, name]) => name).sort(([a], [b]) => a - b);
  const labels = new Map();  // cluster -> places that call it by its name
  for (const place of document.querySelectorAll("[data-of]")) {
    if (!labels.has(place.dataset.of)) labels.set(place.dataset.of, []);
    labels.get(place.dataset.of).push(place);
  }

  const call = ({ dataset, value }) => {
    const name = value.trim() || `cluster ${dataset.cluster}`;
    for (const place of labels.get(dataset.cluster) || []) {
      const most = Number(place.dataset.short || name.length);
      place.textContent = name.length > most ? `${name.slice(0, most - 1)}…` : name;
    }
  };
  const count = () => {
    const given = names(), different = new Set(given.map(([, name]) => name));
    bar.querySelector("#named").textContent = given.length.toLocaleString("en-US");
    bar.querySelector("#merged").textContent = different.size < given.length ? `, ${different.size} different names` : "";
    save.disabled = !given.length;
    return different;
  };
  const offer = (different) => {
    document.querySelector("#names-used").replaceChildren(...[...different].sort().map((name) => new Option("", name)));
  };
  const keep = () => { try { localStorage.setItem(key, JSON.stringify(names())); } catch { /* a reload forgets */ } };

  try {
    const kept = new Map(JSON.parse(localStorage.getItem(key)) || []);
    for (const input of inputs) input.value = kept.get(Number(input.dataset.cluster)) ?? input.value;
  } catch { /* nothing was kept */ }
  inputs.forEach((input, i) => {
    input.addEventListener("input", () => { call(input); count(); keep(); });
    input.addEventListener("change", () => offer(count()));
    input.addEventListener("keydown", (event) => {
      const next = inputs[i + (event.shiftKey ? -1 : 1)];
      if (event.key !== "Enter" || event.isComposing || !next) return;
      event.preventDefault();
      next.focus({ preventScroll: true });
      next.closest(".cluster").scrollIntoView({ block: "center" });
    });
    call(input);
  });
  // Always in quotes: a name such as NA stays text. What a spreadsheet would run as a formula is
  // guarded by an apostrophe, which the export takes off again.
  const guarded = (name) => (/^[=+\-@\t\r']/.test(name) && !/^[+-]?[0-9]+(\.[0-9]+)?$/.test(name) ? `'${name}` : name);
  save.addEventListener("click", () => {
    const lines = names().map(([cluster, name]) => `${cluster},"${guarded(name).replaceAll('"', '""')}"\n`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(["cluster,name\n", ...lines], { type: "text/csv" }));
    link.download = "names.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    bar.querySelector("#then").hidden = false;
  });
  for (const hidden of document.querySelectorAll(".naming")) hidden.hidden = false;
  offer(count());
})();
