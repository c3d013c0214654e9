"""The report's page: one HTML file with its style inside, no script, nothing loaded from anywhere.

A Content-Security-Policy says so to the browser too, should anything untrusted ever get past `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.measure.escape import attribute, html
from trainer.measure.plot import STYLE as PLOT_STYLE

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
NOT_RECORDED = '<p class="absent">not recorded</p>'

STYLE = """
:root{color-scheme:light dark;--canvas:#f4f6f8;--card:#fff;--text:#16202b;--soft:#566472;--edge:#e2e7ec;
--code:#f4f6f8;
--accent:#0b66c3;--good:#12805c;--bad:#b23a1e;--mark:#ffe9a8;--marktext:#6b4b00}
@media (prefers-color-scheme:dark){:root{--canvas:#0d1217;--card:#151c24;--text:#e6ebf0;--soft:#a3b0bc;
--edge:#26313c;
--code:#0f151b;--accent:#5aa9ff;--good:#4fd1a5;--bad:#ff9d7a;--mark:#5b4a12;--marktext:#ffe9a8}}
*{box-sizing:border-box}
body{margin:0;background:var(--canvas);color:var(--text);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
-webkit-text-size-adjust:100%}
main{max-width:1180px;margin:0 auto;padding:32px clamp(12px,3vw,32px) 64px}
h1{font-size:clamp(22px,3.4vw,30px);line-height:1.2;margin:0 0 6px;letter-spacing:-.015em;
overflow-wrap:anywhere}
h2{font-size:18px;margin:44px 0 4px;letter-spacing:-.01em}h3{font-size:14px;margin:0 0 8px;
overflow-wrap:anywhere}
p{margin:0 0 12px}.lead{color:var(--soft);max-width:76ch}.lead b{color:var(--text)}
.absent{color:var(--soft);font-style:italic;margin:0}
.card{background:var(--card);border:1px solid var(--edge);border-radius:10px;padding:16px 18px;min-width:0}
.grid{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));
margin-top:12px}
.figures{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));margin:22px 0 0}
.figures .card{padding:13px 16px}.figures b{display:block;font-size:25px;line-height:1.2;font-weight:650;
font-variant-numeric:tabular-nums;letter-spacing:-.02em}.figures span{color:var(--soft);font-size:13px}
.figures small{display:block;color:var(--soft);font-size:12px;font-variant-numeric:tabular-nums}
svg.plot{display:block;width:100%;height:auto;overflow:visible}
.wide{overflow-x:auto;-webkit-overflow-scrolling:touch}.wide>svg.plot{min-width:620px}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{padding:7px 10px;border-bottom:1px solid var(--edge);text-align:right;vertical-align:top;
white-space:nowrap;
font-variant-numeric:tabular-nums}
th{color:var(--soft);font-weight:500;font-size:13px}td:first-child,th:first-child{text-align:left;
padding-left:0}
td.text,th.text{text-align:left;white-space:normal;min-width:220px;width:60%}tr:last-child td{border-bottom:0}
tr.student td{font-weight:650}tr.control td{color:var(--soft)}td small{color:var(--soft);font-weight:400}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
unicode-bidi:isolate-override;direction:ltr}
code{background:var(--code);border-radius:4px;padding:1px 5px;overflow-wrap:anywhere;white-space:pre-wrap}
pre{background:var(--code);border-radius:7px;padding:10px 12px;margin:6px 0 0;overflow:auto;max-height:340px;
white-space:pre-wrap;overflow-wrap:anywhere}
.hidden{background:var(--mark);color:var(--marktext);border-radius:3px;padding:0 3px;margin:0 1px;
font-size:10px;
font-family:ui-monospace,monospace;vertical-align:1px;white-space:nowrap}
.badge{display:inline-block;border-radius:99px;padding:0 9px;font-size:12px;border:1px solid currentColor;
color:var(--bad)}
.badge.passed{color:var(--good)}
.legend{list-style:none;margin:10px 0 0;padding:0;display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;
color:var(--soft)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;background:var(--k);margin-right:6px}
.legend b{color:var(--text);font-weight:550}
details{margin-top:8px}summary{cursor:pointer;color:var(--accent);font-size:13px}
td details{margin:0}td summary::marker{color:var(--soft)}
summary code{color:var(--text)}

dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:3px 16px;margin:0;font-size:14px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.label{font-size:12px;color:var(--soft);margin:10px 0 2px}
footer{margin-top:48px;color:var(--soft);font-size:13px}
@media (max-width:560px){dl{grid-template-columns:1fr}dt{margin-top:6px}.card{padding:13px}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """Return the whole file. `body` is HTML made by this package; the title is any text."""
    # The plots' colours are needed outside the plots too, by the legends.
    style = STYLE + PLOT_STYLE.replace(".plot{--k0", ".plot,.legend{--k0")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{attribute(title)}</title><style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def section(title: str, lead: str, body: str) -> str:
    """Return a section. The lead is HTML and says what is seen and how it was measured."""
    return f'<section><h2>{html(title)}</h2><p class="lead">{lead}</p>{body}</section>'


def card(body: str, title: str = "") -> str:
    """Return a card; empty content says that nothing was recorded."""
    head = f"<h3>{html(title)}</h3>" if title else ""
    return f'<div class="card">{head}{body or NOT_RECORDED}</div>'


def grid(cards: Sequence[str]) -> str:
    """Return cards side by side, as many as fit."""
    return f'<div class="grid">{"".join(cards)}</div>'


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], texts: Sequence[int] = ()) -> str:
    """Return a table that scrolls by itself where the page is narrow.

    head   column names
    rows   (class, cells); cells are HTML
    texts  columns that hold running text
    """
    shape = [' class="text"' if i in texts else "" for i in range(len(head))]
    top = "".join(f"<th{c}>{html(name)}</th>" for c, name in zip(shape, head, strict=True))
    lines = "".join(
        f'<tr class="{attribute(kind)}">'
        + "".join(f"<td{c}>{x}</td>" for c, x in zip(shape, cells, strict=True))
        + "</tr>"
        for kind, cells in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def badge(outcome: object) -> str:
    """Return a verdict's outcome as a badge."""
    kind = " passed" if outcome == "passed" else ""
    return f'<span class="badge{kind}">{html(outcome if outcome else "not recorded", limit=40)}</span>'


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Return names and values as a list; values are escaped, absent ones left out, fractions rounded."""
    there = [
        (name, f"{value:.5g}" if isinstance(value, float) else value)
        for name, value in pairs
        if value not in (None, "", [], {})
    ]
    items = "".join(f"<dt>{html(name)}</dt><dd>{html(value, limit=600)}</dd>" for name, value in there)
    return f"<dl>{items}</dl>" if items else ""


def message(text: object, limit: int = 1200) -> str:
    """Return a message as code on one line, everything hidden made visible; an empty one says so."""
    return (
        f"<code>{html(text, limit=limit)}</code>"
        if text not in (None, "")
        else '<span class="absent">(empty)</span>'
    )


def program(text: object) -> str:
    """Return a program as a block of code."""
    return (
        f"<pre>{html(text, block=True)}</pre>"
        if text not in (None, "")
        else '<p class="absent">(no program)</p>'
    )
