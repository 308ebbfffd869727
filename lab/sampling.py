"""
lab/sampling.py: how pictures are best sampled. Guidance, temperature and top_p are tried on prompts
that the exam does not ask for: what was chosen on its own would flatter its marks.

    python -m lab.sampling out/run

results/skills.md has a table of it.
"""
import sys
from statistics import mean

from tqdm import tqdm

from data import encoding_of, load_tokenizer
from exam.marks import check_all
from exam.questions import GENEVAL, SEED, geneval_prompts
from sample import draw
from systems.runs import latest_run, load_model
from tools.device import find_device
from tools.faults import expect_faults
from tools.flags import Parser
from toy.judge import judge

PROMPTS = 100            # a tag, before the exam's go
PICTURES_A_PROMPT = 2
GUIDANCE = (1., 1.5, 2., 3.)
# a column each: temperature, top_p
CHOICES = ((1., 1.), (.85, 1.), (.7, 1.), (1., .95), (1., .9), (1., .8))


def main():
    p = Parser(
        prog="python -m lab.sampling",
        description="The share of prompts drawn right, by guidance, temperature and top_p.")
    p.add_argument("out", nargs="?", help="folder of the run (default: the latest under out/)")
    p.add_argument("--device", help="cpu | cuda | mps (default: what is there)")
    args = p.parse_args()
    expect_faults("end what else runs on this device, or name another (--device cpu)")

    folder = args.out or latest_run()
    device = find_device(args.device)
    model, config = load_model(folder, device)
    if config["data"]["kind"] != "toy" or config["train"]["task"] == "understand":
        sys.exit(f"{folder}: was not trained to draw the toy world; name a run that was")
    if model.config.draw != "tokens":
        sys.exit(f"{folder}: draws by {model.config.draw}, not token by token; name a run that "
                 "does")
    tok = load_tokenizer(f"{folder}/tokenizer.pt", device)
    enc = encoding_of(config["data"])
    prompts = new_prompts()

    print(f"{folder}: share of pictures right, of {len(prompts)} prompts, {PICTURES_A_PROMPT} "
          "pictures each\n")
    names = [f"t {temperature} p {top_p}" for temperature, top_p in CHOICES]
    print("guidance  " + "".join(f"{name:>14}" for name in names))
    bar = tqdm(total=len(GUIDANCE) * len(CHOICES), desc="sampling")
    for cfg in GUIDANCE:
        row = f"{cfg:<10}"
        for temperature, top_p in CHOICES:
            row += f"{share(model, enc, tok, prompts, cfg, temperature, top_p):14.3f}"
            bar.update()
        tqdm.write(row)
    bar.close()


def new_prompts():
    """
    [(record, scene)]: prompts of GenEval's tags that are not the exam's. Most name colours, as the
    exam has nearly all that are shorter.
    """
    in_exam = {record["prompt"] for record, _ in geneval_prompts()}
    prompts = []
    for record, scene in geneval_prompts(PROMPTS, seed=SEED + 6):
        if record["tag"] in GENEVAL and record["prompt"] not in in_exam:
            prompts.append((record, scene))
    return prompts


def share(model, enc, tok, prompts, cfg, temperature, top_p):
    """The share of pictures that are right."""
    texts = []
    for record, _ in prompts:
        texts += [record["prompt"]] * PICTURES_A_PROMPT
    codes = draw(model, enc, texts, cfg, temperature, top_p=top_p, batch=len(texts))
    verdicts = check_all(prompts, judge(tok.decode(codes)))
    return mean(float(is_right) for is_right, _ in verdicts)


if __name__ == "__main__":
    main()
