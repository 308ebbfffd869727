"""
lab/drawings.py: what several networks draw of the same prompts, a row each. lab/report.py shows it
where a study has prompts.
"""
from data import encoding_of, load_tokenizer
from sample import draw
from systems.runs import load_model
from tools.device import find_device
from tools.sheet import sheet


def draw_rows(runs, prompts, file):
    """
    Writes a PNG of what runs draw.

      runs     each has an arm, which names its row, and a folder (a Path)
      prompts  texts, the columns
      file     its name
    """
    device = find_device()
    pictures, texts = [], []
    for run in runs:
        model, config = load_model(run.folder, device)
        tok = load_tokenizer(run.folder / "tokenizer.pt", device)
        pictures.extend(tok.decode(draw(model, encoding_of(config["data"]), prompts)))
        texts += [f"{run.arm}: {prompt}" for prompt in prompts]
    sheet(pictures, texts, file, columns=len(prompts), zoom=120)
