// The studio's page Live: sends the camera's frames, shows the newest picture, turns the view with the mouse.
// A stream's key is given by the button Start alone; nothing here works without one.
() => {
  const WIDTH = 640, HEIGHT = 480, RATE = 25, QUALITY = 0.85, WAITING = 2;  // frames on their way at most
  const find = (id) => document.getElementById(id);
  const show = (text) => { if (find('live-state') && find('live-state').innerText !== text) find('live-state').innerText = text; };
  const root = new URL('.', window.location.href).href.replace(/[?#].*$/, '');
  const at = (what, query) => `${root}live/${what}?${new URLSearchParams(query)}`;
  let key = null, camera = null, seen = null;

  const open = async () => {
    if (!navigator.mediaDevices) throw new Error('this browser gives pages a camera on localhost or over https only');
    const wanted = {width: {ideal: WIDTH}, height: {ideal: HEIGHT}, frameRate: {ideal: RATE}};
    camera = await navigator.mediaDevices.getUserMedia({video: wanted, audio: false});
    const own = find('live-own');
    own.srcObject = camera;
    own.hidden = false;
    await own.play();
    return own;
  };

  const send = (mine, own) => {  // frames are left out, not queued, while earlier ones are on their way
    const canvas = document.createElement('canvas'), pen = canvas.getContext('2d');
    [canvas.width, canvas.height] = [WIDTH, HEIGHT];
    let waiting = 0;
    const timer = setInterval(() => {
      if (key !== mine) { clearInterval(timer); return; }
      if (waiting >= WAITING || own.readyState < 2 || !camera || !camera.active) return;
      const scale = Math.max(WIDTH / own.videoWidth, HEIGHT / own.videoHeight);
      const [w, h] = [own.videoWidth * scale, own.videoHeight * scale];
      const taken = performance.now();
      pen.drawImage(own, (WIDTH - w) / 2, (HEIGHT - h) / 2, w, h);
      waiting += 1;
      canvas.toBlob((blob) => {
        fetch(at('frame', {key: mine, t: taken.toFixed(1)}), {method: 'POST', body: blob})
          .catch(() => {}).finally(() => { waiting -= 1; });
      }, 'image/jpeg', QUALITY);
    }, 1000 / RATE);
  };

  const watch = async (mine) => {
    const picture = find('live-image');
    let after = 0, told = 0, shown = null, delay = null;
    while (key === mine) {
      let answer;
      try { answer = await fetch(at('picture', {key: mine, after}), {cache: 'no-store'}); } catch { break; }
      if (!answer.ok) break;
      const state = JSON.parse(answer.headers.get('x-live'));
      if (answer.status === 200) {
        const blob = await answer.blob();
        if (shown) URL.revokeObjectURL(shown);
        picture.src = shown = URL.createObjectURL(blob);
        picture.hidden = false;
        after = state.number;
        const now = state.t === null ? 1000 * state.latency : performance.now() - state.t;
        delay = delay === null ? now : 0.9 * delay + 0.1 * now;
      }
      if (!state.running) { show(state.note || 'The stream has ended.'); break; }
      if (performance.now() - told > 250) {
        told = performance.now();
        show(shown === null ? 'Waiting for the first pictures …' :
          `${state.rate.toFixed(1)} frames a second · ${Math.round(delay)} ms · ${state.dropped} dropped · ${state.state}` +
          (state.recording ? ' · recording' : '') + (state.note ? `\n${state.note}` : ''));
      }
    }
    if (key === mine) end(false);
  };

  const end = (tell = true) => {
    const mine = key;
    key = null;
    if (camera) camera.getTracks().forEach((track) => track.stop());
    camera = null;
    if (find('live-own')) { find('live-own').srcObject = null; find('live-own').hidden = true; }
    if (mine) navigator.sendBeacon(at('stop', {key: mine}));
    if (mine && tell) show('Stopped.');
  };

  const number = (id, value) => {
    const field = document.querySelector(`#${id} input[type=number]`);
    if (!field) return;
    const kept = Math.min(Number(field.max), Math.max(Number(field.min), Math.round(value)));
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, kept);
    for (const name of ['input', 'change', 'blur']) field.dispatchEvent(new Event(name, {bubbles: true}));
  };

  window.fportraitLive = {
    getReady: () => { end(false); show('Getting ready …'); },
    notStarted: () => { if (!key) show('Not started.'); },
    begin: async (given, withCamera) => {
      if (!given) return;
      key = given;
      const mine = key;
      watch(mine);
      try {
        if (!withCamera) return;
        const own = await open();
        if (key === mine) send(mine, own);
        else end(false);
      } catch (error) {
        end(false);
        show(`No camera: ${error.message || error}. Allow it, plug one in, or choose a video.`);
      }
    },
    end,
  };
  window.addEventListener('pagehide', () => end(false));
  // Dragging the picture turns the camera around the head, through the sliders.
  document.addEventListener('pointerdown', (event) => {
    if (event.target.id !== 'live-image') return;
    event.preventDefault();
    const now = (id) => Number(document.querySelector(`#${id} input[type=number]`).value);
    seen = {x: event.clientX, y: event.clientY, yaw: now('live-yaw'), height: now('live-elevation'), sent: 0};
  });
  document.addEventListener('pointermove', (event) => {
    if (!seen || performance.now() - seen.sent < 60) return;
    seen.sent = performance.now();
    number('live-yaw', seen.yaw - (event.clientX - seen.x) / 4);
    number('live-elevation', seen.height + (event.clientY - seen.y) / 4);
  });
  document.addEventListener('pointerup', () => { seen = null; });
}
