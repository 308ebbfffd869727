"""
lab/claims.py: what is claimed, by whom, and which numbers of which study tell of it. lab/study.py
makes results/claims.md of it whenever it has made a page.
"""
from lab.report import read, table, title, written

AIA = "arXiv 2511.22663"
CURVES = ("distance/generate", "distance/understand")
SCORES = ("summary/toy-GenEval", "summary/answered")
LOSSES = ("loss/generate", "loss/understand")

# (claim, who says so, {study: the measures that tell of it}); no study: what is known instead
CLAIMS = [
    ("One network learns to draw and to see, whatever the seed.", "README.md", {"scores": None}),
    ("AIA moves the curves of a network that does both tasks toward those of single-task networks.",
     f"{AIA}, figure 5", {"aia": CURVES, "every": CURVES}),
    ("AIA improves both tasks.", f"{AIA}, table 2",
     {"aia": (*LOSSES, *SCORES), "weak": ("loss/understand",), "few": ("best/understand",)}),
    ("What helps is the content of its targets, not restraint alone.", "nobody yet",
     {"headroom": LOSSES}),
    ("The two tasks' gradients are in conflict, in the shallow and the deep layers most.",
     "Uni-X, arXiv 2509.24365", {"conflict": None}),
    ("In every architecture the two tasks' curves are negatively correlated over the layers.",
     f"{AIA}, figure 1", {"opposed": ("correlation/over layers",)}),
    ("The more a network is taken apart, the nearer are its curves to those of single-task "
     "networks, and the better are its scores.", f"{AIA}, figure 1 and table 2",
     {"apart": (*CURVES, *LOSSES)}),
    ("The curves hardly depend on what goes in: their standard deviation over samples is 0.02 to "
     "0.13.", f"{AIA}, table 1", {"spread": None}),
    ("On a weak base any of many weights of AIA's loss will do; on a strong one it is sensitive.",
     f"{AIA}, ablation of the weight", {}),
    ("References that draw from left to right are better ones than those that see both ways.",
     f"{AIA}, ablation of references", {}),
    ("Both tasks together are learned better than drawing alone, and a ratio of 1:1 is best.",
     f"{AIA}, ablation of data", {"synergy": LOSSES}),
    ("A network taken apart must decode what it drew and encode it again before it can see it.",
     f"{AIA}, discussion", {}),
    ("A network that only sees should copy all its weights by modality.",
     "EVEv2, arXiv 2502.06788, section 4.3", {"ladder": ("loss/understand",)}),
    ("A router that learns the task, a shared expert and two stages each earn their place.",
     "UTAMoE", {"router": LOSSES}),
    ("Without any cue to the task the negative correlation may vanish.", f"{AIA}, open question",
     {}),
]


def write_claims(folder):
    """claims.md in the folder of the studies' pages, from their .json files."""
    parts = ["# What is claimed, and what came out here",
             "Made of the studies' pages by `python -m lab.study`, whenever it makes one. *Kept* "
             "and *broken* are promises of a mean and of every seed; the other verdicts go by the "
             "95 % interval of the difference between runs of the same seed, by the rule that "
             "each page has. Of losses and distances less is better."]
    for number, (claim, whose, studies) in enumerate(CLAIMS, 1):
        parts += [f"## {number}. {claim}", f"({whose})"]
        there = [name for name in studies if (folder / f"{name}.json").exists()]
        rows = [row for name in there for row in rows_of(name, studies[name], folder)]
        if rows:
            parts.append(table(["study", "", "of", "", "seeds", "verdict"], rows))
        waiting = [f"`python -m lab.study {name}`" for name in studies if name not in there]
        if waiting:
            parts.append(f"Not run yet: {', '.join(waiting)}.")
        if not studies:
            parts.append("No study of it yet.")
    (folder / "claims.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def rows_of(name, measures, folder):
    """A row for each finding of a study that tells of these measures (None: of all)."""
    rows = []
    for one in read(folder / f"{name}.json")["found"]:
        if measures is None or one["measure"] in measures:
            who = one["arm"]
            what = f"{one['value']}, promised {written(one['of mean'])}" if "of mean" in one else ""
            if "rival" in one:
                who = f"{one['arm']} - {one['rival']}"
                what = one["difference"]
            rows.append([f"[{name}]({name}.md)", who, title(one["measure"]), what,
                         str(one["seeds"]), one["verdict"]])
    return rows
