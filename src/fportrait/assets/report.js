// One clip's players share one clock: the first plays, the others are set to its time when they drift.
document.querySelectorAll('.clip').forEach(c=>{const v=[...c.querySelectorAll('video')],b=c.querySelector('button'),
r=c.querySelector('input'),k=c.querySelector('.cursor');if(!v.length)return;const m=v[0];let on=false;
const show=()=>{const s=m.duration?m.currentTime/m.duration:0;r.value=1000*s;if(k)k.setAttribute('x',100*s+'%');};
const step=()=>{v.slice(1).forEach(o=>{if(Math.abs(o.currentTime-m.currentTime)>.02)o.currentTime=m.currentTime});show();
if(on)requestAnimationFrame(step)};
b.onclick=()=>{on=!on;b.textContent=on?'❚❚':'▶';v.forEach(o=>on?o.play():o.pause());if(on)requestAnimationFrame(step)};
r.oninput=()=>{const t=r.value/1000*(m.duration||0);v.forEach(o=>o.currentTime=t);if(k)k.setAttribute('x',r.value/10+'%')};
m.addEventListener('loadeddata',()=>{const t=(m.duration||0)/2;v.forEach(o=>o.currentTime=t);setTimeout(show,80)})});
