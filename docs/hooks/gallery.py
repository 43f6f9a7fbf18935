"""Gallery: ``docs/gallery/*.py`` run when the site is built, and are pages: comments after an empty line are text."""

import ast
import contextlib
import io
import re
import tempfile
from pathlib import Path

import matplotlib
from mkdocs.structure.files import File

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of how it draws

SCRIPTS = sorted((Path(__file__).parents[1] / "gallery").glob("[0-9]*.py"))


def on_files(files, config):
    """Run the scripts; add their pages, their figures and an overview."""
    parts = ["# Gallery\n\nShort scripts, each run when this site was built: copy one, change a name, run it."]
    for path in SCRIPTS:
        text, figures = page(path)
        files.append(File.generated(config, f"gallery/{path.stem}.md", content=text))
        for name, picture in figures.items():
            files.append(File.generated(config, f"gallery/{name}", content=picture))
        title, about = text.split("\n\n")[:2]
        parts += [f"## [{title[2:]}]({path.stem}.md)", about]
        parts += [f"[![]({name})]({path.stem}.md)" for name in list(figures)[:1]]
    files.append(File.generated(config, "gallery/index.md", content="\n\n".join(parts) + "\n"))
    return files


def page(path):
    """The page of a script, and its figures by file name; the script runs in an empty folder."""
    source = path.read_text(encoding="utf-8")
    title, _, about = ast.get_docstring(tree := ast.parse(source)).partition("\n\n")
    lines, figures, names = [f"# {title.rstrip('.')}", about], {}, {"__name__": "gallery"}
    rest = "\n".join(source.splitlines()[tree.body[0].end_lineno :])
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in re.split(r"\n\n+(?=# )", rest):  # a text and the code after it
            text = re.match(r"(?:#.*\n?)*", block)[0]
            lines.append(re.sub(r"^# ?", "", text, flags=re.M).strip())
            if code := block[len(text) :].strip("\n"):
                lines += run(code, names, path, figures)
    return "\n\n".join([*filter(None, lines), f"The script: `docs/gallery/{path.name}`.\n"]), figures


def run(code, names, path, figures):
    """A block of code with what it prints, and its figures, which are added to ``figures``."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, path.name, "exec"), names)
    yield f"```python\n{code}\n```"
    if out.getvalue().strip():
        yield f"```text\n{out.getvalue().rstrip()}\n```"
    for number in plt.get_fignums():
        name, picture = f"{path.stem}_{len(figures)}.png", io.BytesIO()
        plt.figure(number).savefig(picture, dpi=110, bbox_inches="tight", metadata={"Software": None})
        figures[name] = picture.getvalue()
        yield f"![{path.stem[2:].replace('_', ' ')}]({name})"
    plt.close("all")
