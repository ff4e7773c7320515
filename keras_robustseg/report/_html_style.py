"""Style and script of the audit page. Without the script every mask is shown, unfiltered."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 90rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { border: 1px solid #888; padding: .2rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
.note { border-left: .4rem solid #D55E00; padding-left: .6rem; }
.small { font-size: .85rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; }
.legend { display: flex; flex-wrap: wrap; gap: 1rem; list-style: none; padding: 0; }
.swatch { display: inline-block; width: 1rem; height: 1rem; margin-right: .4rem;
  border: 1px solid #000; vertical-align: middle; }
form label { margin-right: 1.2rem; }
#cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #888; border-radius: .3rem; padding: .6rem; overflow-wrap: anywhere; }
.card[hidden] { display: none; }
.card h3 { font-size: 1rem; margin: 0 0 .4rem; }
.card img { max-width: 100%; }
.card p { font-size: .85rem; margin: .4rem 0 0; }
"""

SCRIPT = """
(function () {
  "use strict";
  var form = document.getElementById("filters");
  var cards = Array.prototype.slice.call(document.querySelectorAll(".card"));
  var value = function (id) { return document.getElementById(id).value; };
  var has = function (list, word) { return !word || list.split(" ").indexOf(word) >= 0; };
  function filter() {
    var shown = 0, least = parseFloat(value("least")) || 0, name = value("name").toLowerCase();
    cards.forEach(function (card) {
      var data = card.dataset;
      var keep = has(data.classes, value("class")) && has(data.kinds, value("kind")) &&
        parseFloat(data.severity) >= least && data.name.toLowerCase().indexOf(name) >= 0;
      card.hidden = !keep;
      shown += keep ? 1 : 0;
    });
    document.getElementById("count").textContent = shown + " of " + cards.length + " shown";
  }
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  filter();
}());
"""
