"""Fifty texts that a model, a query or a recipe may have, and that pages have taken for more than text."""

from __future__ import annotations

_CALL = "window.broken=1"
STRINGS = [
    *(f"<script>{_CALL}</script>", f"</script><script>{_CALL}</script>", f"<SCRIPT>{_CALL}</SCRIPT>", "</script >"),
    *(
        f"<!--<script>{_CALL}</script>-->",
        f"<!-- <script> {_CALL}",
        "-->",
        "]]>",
        "<![CDATA[ x ]]>",
        "<?xml version='1'?>",
    ),
    *(
        f"<img src=x onerror={_CALL}>",
        f"<img src='x' onerror='{_CALL}'>",
        f"<svg onload={_CALL}>",
        f"<svg/onload={_CALL}>",
    ),
    *(f"<body onload={_CALL}>", f"<details open ontoggle={_CALL}>", f"<input autofocus onfocus={_CALL}>"),
    *(f"<video><source onerror={_CALL}></video>", f"<iframe srcdoc='<script>parent.{_CALL}</script>'></iframe>"),
    *(
        f"<iframe src=javascript:{_CALL}>",
        f"<a href=javascript:{_CALL}>x</a>",
        f"javascript:{_CALL}",
        "<base href=http://x.invalid/>",
    ),
    *(
        "<meta http-equiv=refresh content='0;url=http://x.invalid'>",
        "<link rel=stylesheet href=http://x.invalid/a.css>",
    ),
    *("<style>*{display:none}</style>", "</style><style>body{background:url(http://x.invalid)}</style>", "<plaintext>"),
    *("</textarea></title></noscript></option></select>", "<form action=http://x.invalid><button>x</button></form>"),
    *(f'" onmouseover="{_CALL}', f"' onmouseover='{_CALL}", f"` onmouseover=`{_CALL}", f'";{_CALL};"', f"';{_CALL};'"),
    *(f"${{{_CALL}}}", f"`${{{_CALL}}}`", "{{ 7 * 7 }}", "{% raw %}{# gone #}", "{{ cycler.__init__.__globals__ }}"),
    *(
        "&lt;b&gt; &amp; &quot; &#x3c;i&#62;",
        "\\u003cscript\\u003e",
        "\\",
        '\\"',
        "$\\frac{1}{0}$",
        "__proto__",
        "constructor",
    ),
    *(f"\u2028{_CALL}\u2029", "\u202eright-to-left\u202c שלום مرحبا", "\x00\x08\x1b[31m\x7f"),
]
