// What a page must hold for people who do not see it as its makers do: run in a browser, gives a list of faults.
const faults = [];
const visible = (e) => {
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return box.width > 1 && box.height > 1 && style.visibility !== 'hidden' && style.opacity !== '0' && e.checkVisibility();
};
const words = (e) => `${e.tagName.toLowerCase()}#${e.id || (e.closest('[id]') || {}).id}.${e.className}`.slice(0, 120);
const named = (e) => {
  const by = (e.getAttribute('aria-labelledby') || '').split(/\s+/).map(id => (document.getElementById(id) || {}).textContent);
  const labels = [...(e.labels || [])].map(label => label.textContent);
  const inner = e.querySelector('img[alt], [aria-label], [title]');
  const within = inner && (inner.alt || inner.getAttribute('aria-label') || inner.title);
  return [e.getAttribute('aria-label'), e.title, e.textContent, e.placeholder, ...by, ...labels, within]
    .some(text => (text || '').trim());
};
for (const e of document.querySelectorAll('button, input, select, textarea, a[href], [role=slider], [role=tab]')) {
  if (!visible(e) || e.type === 'hidden') continue;
  if (!named(e)) faults.push(`no name: ${words(e)}`);
  if (e.tabIndex < 0 && !e.disabled && e.getAttribute('role') !== 'tab') faults.push(`not for the keyboard: ${words(e)}`);
}
for (const e of document.querySelectorAll('img')) if (visible(e) && !e.hasAttribute('alt')) faults.push(`no alt: ${words(e)}`);

const parsed = (colour) => {
  const numbers = colour.match(/[\d.]+/g).map(Number);
  const unit = colour.startsWith('color(') ? 255 : 1;
  return [...numbers.slice(0, 3).map(n => n * unit), numbers.length > 3 ? numbers[3] : 1];
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const behind = (e) => {
  const layers = [];
  for (let at = e; at; at = at.parentElement) {
    const style = getComputedStyle(at);
    if (style.backgroundImage.includes('gradient')) return null;  // no single colour
    layers.push(parsed(style.backgroundColor));
    if (layers.at(-1)[3] === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
};
const luminance = (c) => [0.2126, 0.7152, 0.0722]
  .reduce((sum, share, i) => sum + share * (c[i] / 255 <= 0.04045 ? c[i] / 255 / 12.92 : ((c[i] / 255 + 0.055) / 1.055) ** 2.4), 0);
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !e || !visible(e) || e.closest('svg, script, style, [disabled], .toast-wrap')) continue;
  const style = getComputedStyle(e), back = behind(e);
  if (!back) continue;
  const [a, b] = [luminance(over(parsed(style.color), back)), luminance(back)];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)}: ${words(e)} "${e.textContent.trim().slice(0, 30)}"`);
}
const wide = document.documentElement.scrollWidth;
if (wide > window.innerWidth) faults.push(`scrolls sideways: ${wide} of ${window.innerWidth} pixels`);
return [...new Set(faults)];
