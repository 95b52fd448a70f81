// The page of a run that goes on: cards and progress as they come, and the run's buttons.

const SHOWN = 200_000; // cards at once: more make a browser slow

/** Take what comes from the server of this page; a page of plain files has none. */
function openLive(cards, onProgress) {
  const { live } = manifest;
  if (!live) return;
  const [pause, stop, bar] = [byId("live-pause"), byId("live-stop"), byId("live-bar")];
  const source = new EventSource("events");
  let progress = {};
  let ended = false;

  /** What the run is at; each is said once as it changes. */
  function state() {
    if (ended) return `The run has ended, and this address with it. The gallery is ${visible(live.page)}`;
    if (source.readyState === EventSource.CLOSED) return "No connection: too many pages of this run are open, or it has ended.";
    if (source.readyState !== EventSource.OPEN) return "No connection to the run; trying again …";
    if (progress.stopping) return "Stopping: nothing more is sent, what is in flight is finished.";
    if (progress.paused) return "Paused: nothing is sent, what is in flight is finished.";
    return progress.full || cards.size() >= SHOWN ? "This page shows the first pictures only; the whole gallery comes at the end." : "";
  }

  function draw() {
    const { total, in_flight: flying, rate, waits } = progress;
    const settled = ["done", "failed", "unknown"].reduce((sum, field) => sum + (progress[field] ?? 0), 0);
    const left = total > settled && rate > 0 && !progress.paused ? `about ${duration((total - settled) / rate)} left` : "";
    const share = total ? `${number(settled)} of ${number(total)} · ${Math.floor((100 * settled) / total)} %` : "";
    const going = ended ? [] : [flying === undefined ? "" : `${number(flying)} in flight`, left, visible(waits ?? "")];
    byId("live").hidden = false;
    byId("live-text").textContent = [share, ...going].filter(Boolean).join(" · ");
    if (byId("live-state").textContent !== state()) byId("live-state").textContent = state();
    bar.hidden = !total;
    if (total) [bar.max, bar.value] = [total, settled];
    pause.hidden = stop.hidden = !live.controls || ended;
    pause.textContent = progress.paused ? "Resume" : "Pause";
    pause.disabled = stop.disabled = progress.stopping ?? false;
  }

  source.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    // A reader at the end of the page stays there, as in a log.
    const last = scrollY > 0 && scrollY + innerHeight > document.documentElement.scrollHeight - 40;
    ({ progress } = event);
    ended = event.ended ?? false;
    if (ended) source.close();
    if (event.replaced) return location.reload();
    for (const page of event.pages) if (cards.size() < SHOWN) gallery.page(page);
    onProgress(progress);
    draw();
    if (last) scrollTo(0, document.documentElement.scrollHeight);
  };
  source.onopen = source.onerror = draw;
  const press = (action) => () => fetch(action(), { method: "POST" }).catch(draw);
  pause.onclick = press(() => (progress.paused ? "resume" : "pause"));
  stop.onclick = press(() => "stop");
  draw();
}
