"""The page in a real browser, and the LaTeX tables in a real LaTeX; skipped, with the reason, where there is none."""

import html
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from dicap.report.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LATEX = shutil.which("pdflatex")
WIDTHS = (320, 390, 820, 1100, 1300)
# a frame a width, so that a narrow page needs no narrow window; what sticks out is measured by its own place
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="out"></pre><script>
window.onload = () => {{ document.getElementById('out').textContent = [...document.querySelectorAll('iframe')].map(frame => {{
  const page = frame.contentDocument;
  page.querySelectorAll('details').forEach(one => one.open = true);
  const width = page.documentElement.clientWidth;
  const out = [...page.querySelectorAll('body *:not(thead *):not(caption)')].filter(one => one.getBoundingClientRect().right > width + 0.5);
  const scrolls = [...page.querySelectorAll('body *')].filter(one => /auto|scroll/.test(getComputedStyle(one).overflowX));
  const broken = [...page.images].filter(one => !one.naturalWidth);
  return [width, page.documentElement.scrollWidth, out.length, scrolls.length, broken.length, page.images.length > 0].join(' ');
}}).join('\\n'); }};
</script>"""


def browse(tmp_path, address, *flags):
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        *flags,
        address,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def report(three_by_two, put):
    """A page with long names, and a target table of many columns."""
    for seed in (1, 2, 3):
        for method in ("CoOp", "DiCap"):
            common = {
                "method": method,
                "seed": seed,
                "split": "all",
                "model": f"{method}{seed}",
                "recipe": "vit_b16_c16_ep10_batch1_ctxv1_and_more",
            }
            put(protocol="source", dataset="causal_shapes", **common)
            for number in range(10):
                put(
                    protocol="cross_dataset",
                    dataset=f"a_dataset_with_a_long_name_{number}",
                    trained_on="causal_shapes",
                    **common,
                )
            put(
                protocol="few_shot",
                dataset="averylongnameofadatasetthatnobodywouldwriteyetsomebodydoesbecausetheycan",
                **common,
            )
    write_report(three_by_two, console=Console(quiet=True))
    return three_by_two


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_the_page_opens_without_an_error_and_nothing_scrolls_sideways(report, tmp_path):
    text = (report / "report.html").read_text(encoding="utf-8")
    frames = "".join(
        f'<iframe style="border:0;width:{width}px;height:800px" srcdoc="{html.escape(text)}"></iframe>'
        for width in WIDTHS
    )
    harness = tmp_path / "harness.html"
    harness.write_text(MEASURE.format(frames=frames), encoding="utf-8")
    dom, errors = browse(tmp_path, harness.as_uri(), "--dump-dom")
    found = re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1).splitlines()
    assert sorted(found) == sorted(f"{width} {width} 0 0 0 true" for width in WIDTHS)
    assert errors == []
    assert browse(tmp_path, (report / "report.html").as_uri(), "--dump-dom")[1] == []


@pytest.mark.skipif(LATEX is None, reason="no pdflatex is installed (CI leaves it out: it takes more than a minute)")
def test_the_latex_tables_compile_and_fit(report, put, tmp_path):
    put(protocol="few_shot", split="all", dataset='<a_b%$&#{}~^\\|"`>')
    write_report(report, console=Console(quiet=True))
    names = sorted(path.name for path in report.glob("*.tex"))
    body = "\n".join(rf"\input{{{name}}}" for name in names)
    (report / "all.tex").write_text(
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx}" + "\n"
        r"\begin{document}" + f"\n{body}\n" + r"\end{document}" + "\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [LATEX, "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "all.tex"],
        cwd=report,
        capture_output=True,
        text=True,
        timeout=120,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-800:]
    assert len(names) == 5 and "Overfull" not in done.stdout
