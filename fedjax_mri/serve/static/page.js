"use strict";
// Everything here is a convenience: each page works without it, by its forms and links.
document.documentElement.classList.add("scripted");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function complain(line) {
  const place = document.getElementById("error");
  place.textContent = line;
  place.hidden = false;
  place.scrollIntoView({ block: "nearest" });
}

// Upload with progress, and errors on the same page.
for (const form of all("form[data-upload]")) {
  const files = form.querySelector("input[type=file]"), drop = form.querySelector(".drop");
  const bar = form.querySelector("progress"), button = form.querySelector("button");
  const tell = () => {
    const size = [...files.files].reduce((sum, one) => sum + one.size, 0);
    form.querySelector(".chosen").textContent = files.files.length ? `${files.files.length} chosen, ${(size / 1e6).toFixed(1)} MB` : "";
    return size;
  };
  files.addEventListener("change", tell);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over-it", kind === "dragover");
      if (kind === "drop") { files.files = event.dataTransfer.files; tell(); }
    });
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (tell() > form.dataset.limit * 1e6) return complain(`More than ${form.dataset.limit} MB: send fewer files at a time.`);
    if (files.files.length > form.dataset.files) return complain(`More than ${form.dataset.files} files: send fewer at a time.`);
    document.getElementById("error").hidden = true;
    const request = new XMLHttpRequest();
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "text/html");
    request.upload.onprogress = (at) => { if (at.lengthComputable) bar.value = 100 * at.loaded / at.total; };
    const again = (line) => { button.disabled = false; bar.hidden = true; complain(line); };
    request.onerror = () => again("The server cannot be reached, or has refused the upload.");
    request.onload = () => {
      if (request.status < 400) { location.assign(request.responseURL); return; }
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      again(page.getElementById("error")?.textContent || `The server answered ${request.status}.`);
    };
    button.disabled = true;
    bar.hidden = false;
    request.send(new FormData(form));
  });
}

// What changes on the server is loaded again.
async function refresh() {
  const live = document.querySelector("[data-refresh]");
  if (!live) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected && answer.url !== location.href) { location.replace(answer.url); return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("live");
    if (fresh) live.replaceWith(document.importNode(fresh, true));
    if (fresh && !("refresh" in fresh.dataset)) all("[data-until-end]").forEach((one) => one.remove());
  } catch { /* the server is starting again */ }
  setTimeout(refresh, 1000);
}
setTimeout(refresh, 700);

// The viewer: slices, window and level, divider.
for (const viewer of all("[data-viewer]")) {
  const value = (name) => viewer.querySelector(`[data-${name}]`)?.value;
  let wanted = false;
  const draw = () => {
    wanted = false;
    for (const image of all("img[data-kind]", viewer)) {
      const { kind, plane } = image.dataset;
      const at = viewer.querySelector(`[data-at="${plane}"]`)?.value ?? 0;
      const query = new URLSearchParams({ at, [`${kind}-level`]: value(`level="${kind}"`), [`${kind}-width`]: value(`width="${kind}"`) });
      image.src = `${image.src.split("?")[0]}?${query}`;
    }
  };
  const later = () => { if (!wanted) { wanted = true; setTimeout(draw, 60); } };
  viewer.addEventListener("submit", (event) => { event.preventDefault(); draw(); });
  viewer.addEventListener("input", (event) => {
    const target = event.target;
    if (target.matches("[data-divide]")) {
      viewer.style.setProperty("--divide", `${target.value}%`);
      return;
    }
    if (target.dataset.at) {
      target.previousElementSibling.querySelector("output").textContent = Number(target.value) + 1;
      for (const other of all(`[data-follow="${target.dataset.at}"]`)) other.value = target.value;
    }
    later();
  });
  for (const button of all("[data-preset]", viewer)) {
    button.addEventListener("click", () => {
      const [kind, level, width] = button.dataset.preset.split(",");
      viewer.querySelector(`[data-level="${kind}"]`).value = level;
      viewer.querySelector(`[data-width="${kind}"]`).value = width;
      draw();
    });
  }
  // A box is drawn over the first result.
  const result = viewer.querySelector('.pair > figure > img[data-kind="result"]'), region = document.querySelector("[data-region]");
  let start = null;
  const share = (event) => {
    const box = result.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((x) => Math.min(Math.max(100 * x, 0), 100));
  };
  result?.addEventListener("pointerdown", (event) => { start = share(event); event.preventDefault(); });
  window.addEventListener("pointerup", (event) => {
    if (!start || !region) return;
    const end = share(event), low = start.map((x, i) => Math.min(x, end[i])), size = start.map((x, i) => Math.abs(x - end[i]));
    start = null;
    if (Math.min(...size) < 1) return;
    for (const [name, number] of [["left", low[0]], ["top", low[1]], ["width", size[0]], ["height", size[1]]]) region.elements[name].value = number.toFixed(1);
    region.closest("details").open = true;
    region.querySelector("button").focus();
  });
}

// Maps over images.
for (const slider of all("[data-opacity]")) {
  const set = () => document.body.style.setProperty("--opacity", slider.value / 100);
  slider.addEventListener("input", set);
  set();
}
for (const radio of all("[data-show]")) {
  radio.addEventListener("change", () => {
    for (const layer of all("[data-layer]")) layer.hidden = layer.dataset.layer !== radio.dataset.show;
  });
}
