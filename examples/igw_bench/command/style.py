"""The page's look: one sheet, light and dark by the reader's preference. Called by `page`."""

# Colours of policies and endpoints, told apart with colour blindness too; the first is the baseline's.
_LIGHT = ("6b7280", "0072b2", "d55e00", "00845f", "b5508c", "9a6b00", "2e9bd6", "6d4bd0", "7a4a2b", "1f2937")
_DARK = ("a3aab8", "4aa8e0", "ff8a4c", "34c99a", "e6a3c8", "f0b93a", "8ccdf2", "b69cff", "cfa385", "e5e7eb")


def _colours(values: tuple[str, ...]) -> str:
    return "".join(f"--c{at}:#{value};" for at, value in enumerate(values))


_CLASSES = "".join(f".s{at}{{--c:var(--c{at % len(_LIGHT)})}}" for at in range(40))

STYLE = (
    ":root{color-scheme:light dark;--back:#fff;--text:#1a1d23;--soft:#5b6270;--rule:#d9dce2;--card:#f6f7f9;"
    f"--good:#087443;--bad:#b42318;{_colours(_LIGHT)}}}"
    "@media(prefers-color-scheme:dark){:root{--back:#14161a;--text:#e7e9ee;--soft:#9aa1ad;--rule:#343943;"
    f"--card:#1c1f25;--good:#4fd18b;--bad:#ff8177;{_colours(_DARK)}}}}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--text);"
    "font:15px/1.45 system-ui,-apple-system,'Segoe UI',sans-serif}"
    "main{max-width:1240px;margin:0 auto;padding:28px 20px 60px}"
    "h1{font-size:26px;margin:0 0 2px}h2{font-size:18px;margin:36px 0 10px}"
    ".about{color:var(--soft);margin:0 0 12px}.notes{color:var(--soft);margin:0;padding-left:18px}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:4px 14px 4px 0;text-align:right;vertical-align:top;white-space:nowrap}"
    "th:first-child{text-align:left}thead th{border-bottom:2px solid var(--rule);font-weight:600}"
    "tbody th{font-weight:400}tbody tr.new>*{border-top:1px solid var(--rule)}"
    ".load th,.load td{text-align:left;border-top:1px solid var(--rule)}td.words{white-space:normal}"
    "small{color:var(--soft);font-size:12px}.ratio{display:inline-block;min-width:44px;text-align:left}.better{color:var(--good)}.worse{color:var(--bad)}"
    ".legend{display:flex;flex-wrap:wrap;gap:6px 20px;margin:20px 0 0;position:sticky;top:0;padding:8px 0;"
    "background:var(--back)}"
    ".swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;background:var(--c)}"
    ".plots{display:grid;margin-top:20px;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:16px}"
    ".pair{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:16px;margin-bottom:16px}"
    "@media(max-width:800px){.pair{grid-template-columns:1fr}}"
    "figure{margin:0;padding:12px 12px 8px;background:var(--card);border:1px solid var(--rule);border-radius:8px}"
    "figcaption{font-weight:600;font-size:14px;margin-bottom:6px}svg{display:block;width:100%;height:auto}"
    "svg text{fill:var(--soft);font-size:11px}.grid{stroke:var(--rule);stroke-width:1}"
    ".axis,.tick{stroke:var(--soft);stroke-width:1;fill:none}"
    ".line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}.bar{fill:var(--c)}"
    f"{_CLASSES}"
)
