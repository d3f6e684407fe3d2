// What the tab needs a browser for: help where the user points, the search over the settings, asking
// for news while something moves, and a new plan shortly after a setting has changed. Every step is
// harmless where an element is not there: hosts load this file on pages without the tab.
(() => {
    "use strict";
    const QUICK = 1000, SLOW = 4000, AFTER_CHANGE = 700, LOST = 15000;  // milliseconds
    const WORKING = ["running", "paused", "stopping"];
    const page = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const find = (id) => page().querySelector("#" + id);
    const press = (id) => {
        const button = find(id);
        if (button) (button.matches("button") ? button : button.querySelector("button")).click();
    };
    const data = (id) => {
        const holder = find(id);
        if (!holder) return {};
        const own = holder.dataset.json ? holder : holder.querySelector("[data-json]");
        return own ? JSON.parse(own.dataset.json) : {};
    };

    // ---- help ------------------------------------------------------------------------------
    let helpTexts = null;
    const tip = document.createElement("div");
    tip.id = "lora_loop_tip";
    tip.setAttribute("role", "tooltip");
    tip.hidden = true;

    function showTip(badge, text) {
        if (!tip.isConnected) document.body.append(tip);
        tip.textContent = text;
        tip.hidden = false;
        const place = badge.getBoundingClientRect();
        const left = Math.min(place.left, window.innerWidth - tip.offsetWidth - 12);
        const below = place.bottom + 6 + tip.offsetHeight < window.innerHeight;
        const top = below ? place.bottom + 6 : place.top - tip.offsetHeight - 6;
        tip.style.left = Math.max(8, left) + window.scrollX + "px";
        tip.style.top = Math.max(8, top) + window.scrollY + "px";
    }

    function helpBadge(text) {
        const badge = document.createElement("button");
        badge.type = "button";
        badge.className = "lora-loop-help";
        badge.textContent = "?";
        badge.setAttribute("aria-label", (data("lora_loop_words").help || "?") + " " + text);
        for (const event of ["mouseenter", "focus"]) badge.addEventListener(event, () => showTip(badge, text));
        for (const event of ["mouseleave", "blur"]) badge.addEventListener(event, () => { tip.hidden = true; });
        badge.addEventListener("click", (event) => { event.preventDefault(); event.stopPropagation(); showTip(badge, text); });
        return badge;
    }

    function addHelp() {
        helpTexts = { ...data("lora_loop_help"), ...data("lora_loop_help_blocks"), ...data("lora_loop_help_captions") };
        for (const [id, text] of Object.entries(helpTexts)) {
            const widget = find(id);
            if (!widget || widget.querySelector(".lora-loop-help")) continue;
            const label = widget.querySelector('[data-testid="block-info"]') || widget.querySelector("label span:last-of-type");
            if (label) label.append(helpBadge(text));
        }
    }

    // ---- search ----------------------------------------------------------------------------
    function search(words) {
        const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
        const all = find("lora_loop_all");
        if (!all) return;
        for (const group of all.querySelectorAll(".lora-loop-section")) {
            let any = false;
            for (const [id, text] of Object.entries(helpTexts || {})) {
                const widget = group.querySelector("#" + id);
                if (!widget) continue;
                const hay = (widget.textContent + " " + text).toLowerCase();
                const fits = wanted.every((word) => hay.includes(word));
                widget.classList.toggle("lora-loop-unmatched", !fits);
                any = any || fits;
            }
            group.classList.toggle("lora-loop-unmatched", !any);
        }
    }

    // ---- a new plan after a change -------------------------------------------------------------
    let planTimer = 0;
    function changed(event) {
        if (event.target.closest("#lora_loop_search")) {
            if (event.type === "input") search(event.target.value);
            return;
        }
        const settings = event.target.closest("#lora_loop_pages");
        if (!settings || event.target.closest(".lora-loop-help")) return;
        clearTimeout(planTimer);
        planTimer = setTimeout(() => press("lora_loop_replan"), AFTER_CHANGE);
    }
    for (const event of ["input", "change", "focusout"]) document.addEventListener(event, changed, true);

    // ---- news ----------------------------------------------------------------------------------
    let awake = false, asked = 0, answered = true, before = "";
    function state() {
        const strip = page().querySelector("#lora_loop_strip [data-state]");
        return strip ? strip.dataset.state : "idle";
    }

    // which job is over, also where it was too quick to be seen at work
    function ended(now) {
        const strip = page().querySelector("#lora_loop_strip [data-state]");
        return strip && !WORKING.includes(now) ? strip.dataset.job || "" : "";
    }

    function showButtons(now) {
        const shown = {
            lora_loop_stop: WORKING.includes(now),
            lora_loop_pause: now === "running" && kind() === "train",
            lora_loop_go_on: now === "paused",
        };
        for (const [id, on] of Object.entries(shown)) {
            const button = find(id);
            if (button) button.classList.toggle("lora-loop-working-only", !on);
        }
    }

    function kind() {
        const strip = page().querySelector("#lora_loop_strip [data-state]");
        return strip ? strip.dataset.kind || "" : "";
    }

    function watchStrip() {
        const strip = find("lora_loop_strip");
        if (!strip || strip.dataset.watched) return;
        strip.dataset.watched = "yes";
        new MutationObserver(() => { answered = true; }).observe(strip, { childList: true, subtree: true, attributes: true, characterData: true });
    }

    function tick() {
        const root = find("lora_loop");
        if (!root || root.offsetParent === null || document.hidden) return;
        if (!find("lora_loop_poll")) return;
        watchStrip();
        addHelp();
        if (!awake) {
            awake = true;
            for (const id of ["lora_loop_poll", "lora_loop_wake", "lora_loop_look", "lora_loop_list"]) press(id);
        }
        const now = state();
        showButtons(now);
        const over = ended(now);
        if (over && over !== before) {
            for (const id of ["lora_loop_look", "lora_loop_list"]) press(id);
        }
        before = over || before;
        const age = Date.now() - asked;
        const due = WORKING.includes(now) ? QUICK : SLOW;
        if ((age >= due && answered) || age >= LOST) {
            asked = Date.now();
            answered = !WORKING.includes(now);  // an unchanged strip makes no change to watch
            press("lora_loop_poll");
        }
    }
    setInterval(tick, 500);

    // ---- the host's own prompt --------------------------------------------------------------
    window.loraLoopUseInPrompt = (tag) => {
        const prompt = page().querySelector("#txt2img_prompt textarea");
        if (!prompt || !tag) return;
        const name = tag.split(":")[1];
        const others = prompt.value.split(/(<lora:[^<>]*>)/).filter((part) => !part.startsWith("<lora:" + name + ":"));
        prompt.value = (others.join("").trim() + " " + tag).trim();
        prompt.dispatchEvent(new Event("input", { bubbles: true }));
        const tab = [...page().querySelectorAll("#tabs > .tab-nav button, #tabs [role=tab]")].find((one) => one.textContent.trim() === "txt2img")
            || page().querySelector("#tabs > .tab-nav button, #tabs [role=tab]");
        if (tab) tab.click();
    };
})();
