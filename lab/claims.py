"""
lab/claims.py: the page on what is claimed, and what came out here: results/claims.md. lab/study.py
writes it with every page of a study in results/. lab/studies.py has the claims.
"""
from lab.measures import read_found
from lab.report import table, title, written
from lab.studies import CLAIMS, STUDIES

INTRODUCTION = (
    "Written by `python -m lab.study`, with every page of a study. *Kept* and *broken* are "
    "promises of a mean and of every seed. The other verdicts go by the 95 % interval of the "
    "difference between runs of the same seed, by the rule that each page has. Of losses, "
    "distances, cosines and correlations less is better, or is claimed. What counts for a claim "
    "was chosen before the runs, unless a page says otherwise.")

# of claims that take no training to look into
ELSEWHERE = {"round trip": "What that costs: [cost.md](cost.md), by `python -m lab.cost`."}


def write_claims(folder):
    """claims.md in the folder of the studies' pages, from their .json files."""
    parts = ["# What is claimed, and what came out here", INTRODUCTION]
    for number, (name, (claim, whose)) in enumerate(CLAIMS.items(), 1):
        parts += [f"## {number}. {claim}", f"({whose})"]
        rows = []
        missing = []
        for study, about in STUDIES.items():
            if name in about["tests"]:
                of_study = rows_of(study, name, folder)
                rows += of_study
                if not of_study:
                    missing.append(f"`python -m lab.study {study}`")
        if rows:
            parts.append(table(["study", "", "of", "", "seeds", "verdict"], rows))
        if missing:
            parts.append(f"Nothing yet of {', '.join(missing)}.")
        if not rows and not missing:
            parts.append(ELSEWHERE.get(name, "No study of it yet."))
    (folder / "claims.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def rows_of(study, claim, folder):
    """A row for each finding of a study that counts for a claim; none if it was not run."""
    file = folder / f"{study}.json"
    if not file.exists():
        return []
    found = read_found(file, study)
    counts = STUDIES[study]["tests"][claim]
    rows = []
    for one in found:
        who = one["arm"]
        if counts == "promise":
            what = (f"{one['value']}, worst {one['worst']}; promised {written(one['of mean'])}, "
                    f"each {written(one['of each'])}")
        else:
            pairs, measures = counts
            if (who, one["rival"]) not in pairs or one["measure"] not in measures:
                continue
            who = f"{who} - {one['rival']}"
            what = one["difference"]
        if one["verdict"] != "not measured":
            rows.append([f"[{study}]({study}.md)", who, title(one["measure"]), what,
                         str(one["seeds"]), one["verdict"]])
    return rows
